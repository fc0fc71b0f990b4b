package org.apache.beam.runners.fnexecution.control;

import java.io.IOException;
import java.util.List;
import java.util.concurrent.atomic.AtomicLong;
import org.apache.beam.model.fnexecution.v1.BeamFnApi.BundleApplication;
import org.apache.beam.model.fnexecution.v1.BeamFnApi.DelayedBundleApplication;
import org.apache.beam.model.fnexecution.v1.BeamFnApi.ProcessBundleResponse;
import org.apache.beam.runners.core.InMemoryTimerInternals;
import org.apache.beam.runners.core.StateInternals;
import org.apache.beam.runners.core.StateInternalsFactory;
import org.apache.beam.runners.core.StateNamespace;
import org.apache.beam.runners.core.StateNamespaces;
import org.apache.beam.runners.core.StateTags;
import org.apache.beam.runners.core.TimerInternals;
import org.apache.beam.runners.core.TimerInternalsFactory;
import org.apache.beam.sdk.coders.Coder;
import org.apache.beam.sdk.state.TimeDomain;
import org.apache.beam.sdk.state.ValueState;
import org.apache.beam.sdk.transforms.windowing.BoundedWindow;
import org.apache.beam.sdk.util.CoderUtils;
import org.apache.beam.sdk.values.WindowedValue;
import org.apache.beam.sdk.values.WindowedValues;
import org.apache.beam.vendor.grpc.v1p69p0.com.google.protobuf.Duration;
import org.apache.beam.vendor.grpc.v1p69p0.com.google.protobuf.Timestamp;
import org.joda.time.Instant;

/**
 * Takes the place of Beam's class of this name, which leaks: https://github.com/apache/beam/issues/27648.
 *
 * <p>Beam up to 2.75 gives each residual of a splittable DoFn a timer and a state cell of a new name, and
 * Flink keeps a cell's name for ever: a source that polls makes each checkpoint larger than the last. It also
 * cuts resume delays and watermark holds to whole seconds.
 *
 * <p>Remove this class, its tests and its place on the class paths when Beam is 2.76 or later: it leans on
 * internals of 2.70, and the later runner reads residuals from another cell.
 */
public class BundleCheckpointHandlers {

  private BundleCheckpointHandlers() {}

  /** Says whether a timer that was set has yet to fire. */
  interface PendingTimers {
    /**
     * Returns whether the timer is pending for the key that {@code timers} belongs to.
     *
     * @throws IllegalStateException the timers are not of the runner that this class is made for
     */
    boolean isPending(TimerInternals timers, StateNamespace namespace, String timerId);
  }

  /** Keeps the residual of an element in state, and sets the timer that resumes it. */
  public static class StateAndTimerBundleCheckpointHandler<T> implements BundleCheckpointHandler {

    /** How the names of these timers and cells begin. */
    public static final String SDF_PREFIX = "sdf_checkpoint";

    /** The name of an element's one timer, and of the cell that the runner reads when it fires. */
    private static final String RESIDUAL = SDF_PREFIX + ":residual";

    private final TimerInternalsFactory<T> timersOf;
    private final StateInternalsFactory<T> statesOf;
    private final Coder<WindowedValue<T>> residualCoder;
    private final Coder<BoundedWindow> windowCoder;
    private final PendingTimers pendingTimers;
    private final AtomicLong shared = new AtomicLong();

    @SuppressWarnings({"unchecked", "rawtypes"}) // The raw coder is the signature that the runner calls.
    public StateAndTimerBundleCheckpointHandler(
        TimerInternalsFactory<T> timerInternalsFactory,
        StateInternalsFactory<T> stateInternalsFactory,
        Coder<WindowedValue<T>> residualCoder,
        Coder windowCoder) {
      this(
          timerInternalsFactory, stateInternalsFactory, residualCoder, windowCoder, new FlinkPendingTimers());
    }

    StateAndTimerBundleCheckpointHandler(
        TimerInternalsFactory<T> timersOf,
        StateInternalsFactory<T> statesOf,
        Coder<WindowedValue<T>> residualCoder,
        Coder<BoundedWindow> windowCoder,
        PendingTimers pendingTimers) {
      this.timersOf = timersOf;
      this.statesOf = statesOf;
      this.residualCoder = residualCoder;
      this.windowCoder = windowCoder;
      this.pendingTimers = pendingTimers;
    }

    /** Returns whether a timer is one of those that resume residuals. */
    public static boolean isSdfTimer(String timerId) {
      return timerId.startsWith(SDF_PREFIX);
    }

    /**
     * Keeps the residuals of a bundle that has ended.
     *
     * @throws IllegalStateException an element has a residual already that was not resumed yet
     */
    @Override
    public void onCheckpoint(ProcessBundleResponse response) {
      for (DelayedBundleApplication residual : response.getResidualRootsList()) {
        if (residual.hasApplication()) {
          keep(residual);
        }
      }
    }

    private void keep(DelayedBundleApplication residual) {
      WindowedValue<T> value = decode(residual.getApplication());
      TimerInternals timers = timersOf.timerInternalsForKey(value.getValue());
      StateInternals states = statesOf.stateInternalsForKey(value.getValue());
      // A bounded job has one set of timers for all elements, and throws the cells away at its end. Its clock
      // stands at the end of time while it drains.
      boolean ofOneKey = !(timers instanceof InMemoryTimerInternals);
      String id = ofOneKey ? RESIDUAL : SDF_PREFIX + ":shared:" + shared.getAndIncrement();
      Instant now = ofOneKey ? timers.currentProcessingTime() : Instant.now();
      Instant due = now.plus(residual.hasRequestedTimeDelay() ? millis(residual.getRequestedTimeDelay()) : 0);
      Instant hold = hold(residual.getApplication());
      for (BoundedWindow window : value.getWindows()) {
        StateNamespace namespace = StateNamespaces.window(windowCoder, window);
        // The runner's state follows the key that was asked for last.
        ValueState<WindowedValue<T>> cell = states.state(namespace, StateTags.value(id, residualCoder));
        if (ofOneKey && pendingTimers.isPending(timers, namespace, id)) {
          throw new IllegalStateException(
              "a second residual of one element of a splittable DoFn while the first waits to be resumed, "
                  + "and there is room for one: give the DoFn elements that differ, and do not split "
                  + "restrictions");
        }
        timers.setTimer(namespace, id, "", due, hold, TimeDomain.PROCESSING_TIME);
        cell.write(
            WindowedValues.of(value.getValue(), value.getTimestamp(), List.of(window), value.getPaneInfo()));
      }
    }

    private WindowedValue<T> decode(BundleApplication application) {
      try {
        return CoderUtils.decodeFromByteArray(residualCoder, application.getElement().toByteArray());
      } catch (IOException e) {
        throw new IllegalStateException("a residual that its coder cannot read", e);
      }
    }

    /** Returns the least of the outputs' watermarks: what the residual may still emit is not older. */
    private static Instant hold(BundleApplication application) {
      long least =
          application.getOutputWatermarksMap().values().stream()
              .mapToLong(StateAndTimerBundleCheckpointHandler::millis)
              .min()
              .orElse(BoundedWindow.TIMESTAMP_MIN_VALUE.getMillis());
      return Instant.ofEpochMilli(
          Math.max(
              BoundedWindow.TIMESTAMP_MIN_VALUE.getMillis(),
              Math.min(BoundedWindow.TIMESTAMP_MAX_VALUE.getMillis(), least)));
    }

    /** Rounds down, before 1970 too: a hold must not pass the watermark. */
    private static long millis(Timestamp time) {
      return Math.addExact(Math.multiplyExact(time.getSeconds(), 1000L), time.getNanos() / 1_000_000);
    }

    /** Rounds up: the delay is what was asked for at least. */
    private static long millis(Duration delay) {
      return Math.addExact(
          Math.multiplyExact(delay.getSeconds(), 1000L), -Math.floorDiv(-delay.getNanos(), 1_000_000));
    }
  }
}
