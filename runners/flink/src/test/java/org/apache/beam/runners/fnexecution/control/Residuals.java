package org.apache.beam.runners.fnexecution.control;

import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.TreeSet;
import org.apache.beam.model.fnexecution.v1.BeamFnApi.BundleApplication;
import org.apache.beam.model.fnexecution.v1.BeamFnApi.DelayedBundleApplication;
import org.apache.beam.model.fnexecution.v1.BeamFnApi.ProcessBundleResponse;
import org.apache.beam.runners.core.InMemoryStateInternals;
import org.apache.beam.runners.core.StateInternals;
import org.apache.beam.runners.core.StateNamespace;
import org.apache.beam.runners.core.StateTag;
import org.apache.beam.runners.core.StateTags;
import org.apache.beam.runners.core.TimerInternals.TimerData;
import org.apache.beam.sdk.coders.Coder;
import org.apache.beam.sdk.coders.KvCoder;
import org.apache.beam.sdk.coders.StringUtf8Coder;
import org.apache.beam.sdk.coders.VarIntCoder;
import org.apache.beam.sdk.state.State;
import org.apache.beam.sdk.state.StateContext;
import org.apache.beam.sdk.transforms.windowing.BoundedWindow;
import org.apache.beam.sdk.transforms.windowing.IntervalWindow;
import org.apache.beam.sdk.transforms.windowing.PaneInfo;
import org.apache.beam.sdk.util.CoderUtils;
import org.apache.beam.sdk.values.KV;
import org.apache.beam.sdk.values.WindowedValue;
import org.apache.beam.sdk.values.WindowedValues;
import org.apache.beam.vendor.grpc.v1p69p0.com.google.protobuf.ByteString;
import org.apache.beam.vendor.grpc.v1p69p0.com.google.protobuf.Duration;
import org.apache.beam.vendor.grpc.v1p69p0.com.google.protobuf.Timestamp;

/** A runner's side of residuals, in memory: states and timers by key, and what it does when a timer fires. */
final class Residuals {

  /** An element and the position that it is read from; the key is the element. */
  static final Coder<WindowedValue<KV<String, Integer>>> CODER =
      WindowedValues.getFullCoder(
          KvCoder.of(StringUtf8Coder.of(), VarIntCoder.of()), IntervalWindow.getCoder());

  static final Coder<? extends BoundedWindow> WINDOWS = IntervalWindow.getCoder();

  final Map<String, KeyedTimers> timers = new HashMap<>();
  final Map<String, StateInternals> states = new HashMap<>();
  /** The names of all cells that were ever asked for: Flink keeps each of them for ever. */
  final Set<String> cells = new TreeSet<>();

  KeyedTimers timersOf(KV<String, Integer> value) {
    return timers.computeIfAbsent(value.getKey(), key -> new KeyedTimers());
  }

  StateInternals statesOf(KV<String, Integer> value) {
    return states.computeIfAbsent(value.getKey(), key -> new Recording(InMemoryStateInternals.forKey(key)));
  }

  /** Reads the residual that a timer of a key resumes, as the runner does. */
  WindowedValue<KV<String, Integer>> resumed(String key, TimerData timer) {
    return states.get(key).state(timer.getNamespace(), StateTags.value(timer.getTimerId(), CODER)).read();
  }

  static WindowedValue<KV<String, Integer>> at(String element, int position, BoundedWindow... windows) {
    return WindowedValues.of(
        KV.of(element, position),
        windows[0].maxTimestamp(),
        List.of(windows),
        PaneInfo.NO_FIRING);
  }

  static DelayedBundleApplication residual(
      WindowedValue<KV<String, Integer>> value, Duration delay, Map<String, Timestamp> watermarks)
      throws Exception {
    return DelayedBundleApplication.newBuilder()
        .setApplication(
            BundleApplication.newBuilder()
                .setElement(ByteString.copyFrom(CoderUtils.encodeToByteArray(CODER, value)))
                .putAllOutputWatermarks(watermarks))
        .setRequestedTimeDelay(delay)
        .build();
  }

  static ProcessBundleResponse response(DelayedBundleApplication... residuals) {
    return ProcessBundleResponse.newBuilder().addAllResidualRoots(List.of(residuals)).build();
  }

  private final class Recording implements StateInternals {
    private final StateInternals states;

    Recording(StateInternals states) {
      this.states = states;
    }

    @Override
    public Object getKey() {
      return states.getKey();
    }

    @Override
    public <T extends State> T state(StateNamespace namespace, StateTag<T> tag, StateContext<?> context) {
      cells.add(tag.getId());
      return states.state(namespace, tag, context);
    }
  }
}
