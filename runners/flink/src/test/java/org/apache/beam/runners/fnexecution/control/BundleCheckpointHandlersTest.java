package org.apache.beam.runners.fnexecution.control;

import static org.apache.beam.runners.fnexecution.control.Residuals.CODER;
import static org.apache.beam.runners.fnexecution.control.Residuals.WINDOWS;
import static org.apache.beam.runners.fnexecution.control.Residuals.at;
import static org.apache.beam.runners.fnexecution.control.Residuals.residual;
import static org.apache.beam.runners.fnexecution.control.Residuals.response;
import static org.junit.Assert.assertEquals;
import static org.junit.Assert.assertFalse;
import static org.junit.Assert.assertThrows;
import static org.junit.Assert.assertTrue;

import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import org.apache.beam.model.fnexecution.v1.BeamFnApi.DelayedBundleApplication;
import org.apache.beam.model.fnexecution.v1.BeamFnApi.ProcessBundleResponse;
import org.apache.beam.runners.core.InMemoryStateInternals;
import org.apache.beam.runners.core.InMemoryTimerInternals;
import org.apache.beam.runners.core.StateInternals;
import org.apache.beam.runners.core.StateNamespaces;
import org.apache.beam.runners.core.StateTags;
import org.apache.beam.runners.core.TimerInternals.TimerData;
import org.apache.beam.runners.fnexecution.control.BundleCheckpointHandlers.StateAndTimerBundleCheckpointHandler;
import org.apache.beam.sdk.coders.Coder;
import org.apache.beam.sdk.state.TimeDomain;
import org.apache.beam.sdk.transforms.windowing.BoundedWindow;
import org.apache.beam.sdk.transforms.windowing.IntervalWindow;
import org.apache.beam.sdk.values.KV;
import org.apache.beam.sdk.values.WindowedValue;
import org.apache.beam.vendor.grpc.v1p69p0.com.google.protobuf.Duration;
import org.apache.beam.vendor.grpc.v1p69p0.com.google.protobuf.Timestamp;
import org.joda.time.Instant;
import org.junit.Test;

/** What residuals must do; each rule that Beam's class breaks is shown on that one too. */
public class BundleCheckpointHandlersTest {

  private static final IntervalWindow EARLY = new IntervalWindow(new Instant(0), new Instant(60_000));
  private static final IntervalWindow LATE = new IntervalWindow(new Instant(60_000), new Instant(120_000));
  private static final Duration NO_DELAY = Duration.getDefaultInstance();
  private static final int RESUMES = 300;

  private final Residuals runner = new Residuals();

  @SuppressWarnings({"unchecked", "rawtypes"})
  private BundleCheckpointHandler ours() {
    return new StateAndTimerBundleCheckpointHandler<>(
        runner::timersOf, runner::statesOf, CODER, (Coder) WINDOWS, KeyedTimers::isPending);
  }

  private BundleCheckpointHandler original() throws Exception {
    return OriginalHandlers.make(
        (KV<String, Integer> value) -> runner.timersOf(value),
        (KV<String, Integer> value) -> runner.statesOf(value),
        CODER,
        WINDOWS);
  }

  private static ProcessBundleResponse deferred(String element, int position) throws Exception {
    return response(residual(at(element, position, EARLY), NO_DELAY, Map.of()));
  }

  /** Defers and resumes an element many times, and checks that each resume is where the last one stopped. */
  private void poll(BundleCheckpointHandler handler) throws Exception {
    KeyedTimers timers = runner.timersOf(KV.of("lane", 0));
    for (int position = 0; position < RESUMES; position++) {
      handler.onCheckpoint(deferred("lane", position));
      // Beam's class reads the wall clock.
      List<TimerData> due = timers.advance(Instant.now().plus(1));
      assertEquals(1, due.size());
      assertTrue(StateAndTimerBundleCheckpointHandler.isSdfTimer(due.get(0).getTimerId()));
      assertEquals(at("lane", position, EARLY), runner.resumed("lane", due.get(0)));
    }
  }

  @Test
  public void anElementThatPollsUsesOneCell() throws Exception {
    poll(ours());
    assertEquals(1, runner.cells.size());
  }

  @Test
  public void theOriginalLeavesACellForEachPoll() throws Exception {
    poll(original());
    assertEquals("Beam no longer leaks: remove our class", RESUMES, runner.cells.size());
  }

  @Test
  public void aCellsNameIsTheSameAfterARestart() throws Exception {
    ours().onCheckpoint(deferred("lane", 1));
    runner.timersOf(KV.of("lane", 0)).advance(Instant.now());
    ours().onCheckpoint(deferred("lane", 2));
    assertEquals(1, runner.cells.size());
  }

  @Test
  public void theDelayIsKeptToTheMillisecondAndNeverCut() throws Exception {
    Duration delay = Duration.newBuilder().setSeconds(1).setNanos(250_000_001).build();
    KeyedTimers timers = runner.timersOf(KV.of("lane", 0));
    Instant now = timers.currentProcessingTime();
    ours().onCheckpoint(response(residual(at("lane", 1, EARLY), delay, Map.of())));
    assertEquals(now.plus(1_251), timers.pending().get(0).getTimestamp());
    assertEquals(TimeDomain.PROCESSING_TIME, timers.pending().get(0).getDomain());
  }

  @Test
  public void theOriginalCutsTheDelay() throws Exception {
    Duration delay = Duration.newBuilder().setNanos(900_000_000).build();
    original().onCheckpoint(response(residual(at("lane", 1, EARLY), delay, Map.of())));
    TimerData timer = runner.timersOf(KV.of("lane", 0)).pending().get(0);
    assertFalse("Beam keeps the delay: look at our class", timer.getTimestamp().isAfter(Instant.now()));
  }

  private static Timestamp time(long seconds, int nanos) {
    return Timestamp.newBuilder().setSeconds(seconds).setNanos(nanos).build();
  }

  private Instant hold(BundleCheckpointHandler handler, Map<String, Timestamp> watermarks) throws Exception {
    String element = "lane" + runner.timers.size();
    handler.onCheckpoint(response(residual(at(element, 1, EARLY), NO_DELAY, watermarks)));
    return runner.timersOf(KV.of(element, 0)).pending().get(0).getOutputTimestamp();
  }

  @Test
  public void theHoldIsTheLeastWatermarkToTheMillisecond() throws Exception {
    BundleCheckpointHandler handler = ours();
    assertEquals(new Instant(12_345), hold(handler, Map.of("a", time(12, 345_999_999))));
    assertEquals(
        new Instant(12_345), hold(handler, Map.of("a", time(13, 0), "b", time(12, 345_000_000))));
    assertEquals(new Instant(-1_500), hold(handler, Map.of("a", time(-2, 500_999_999))));
  }

  @Test
  public void theHoldStaysWithinTime() throws Exception {
    BundleCheckpointHandler handler = ours();
    assertEquals(BoundedWindow.TIMESTAMP_MIN_VALUE, hold(handler, Map.of()));
    assertEquals(
        BoundedWindow.TIMESTAMP_MIN_VALUE, hold(handler, Map.of("a", time(-9_223_372_036_855L, 0))));
    assertEquals(
        BoundedWindow.TIMESTAMP_MAX_VALUE, hold(handler, Map.of("a", time(9_223_372_036_855L, 0))));
  }

  @Test
  public void theOriginalCutsTheHold() throws Exception {
    assertEquals(new Instant(12_000), hold(original(), Map.of("a", time(12, 345_000_000))));
  }

  @Test
  public void aSecondResidualIsRefusedUntilTheFirstIsResumed() throws Exception {
    BundleCheckpointHandler handler = ours();
    handler.onCheckpoint(deferred("lane", 1));
    Exception refused =
        assertThrows(IllegalStateException.class, () -> handler.onCheckpoint(deferred("lane", 2)));
    assertTrue(refused.getMessage(), refused.getMessage().startsWith("a second residual of one element"));
    TimerData first = runner.timersOf(KV.of("lane", 0)).pending().get(0);
    assertEquals(at("lane", 1, EARLY), runner.resumed("lane", first));
    runner.timersOf(KV.of("lane", 0)).advance(Instant.now());
    handler.onCheckpoint(deferred("lane", 3));
  }

  @Test
  public void aSecondResidualIsRefusedWithinOneBundle() throws Exception {
    ProcessBundleResponse both =
        response(
            residual(at("lane", 1, EARLY), NO_DELAY, Map.of()),
            residual(at("lane", 2, EARLY), NO_DELAY, Map.of()));
    assertThrows(IllegalStateException.class, () -> ours().onCheckpoint(both));
  }

  @Test
  public void elementsAndWindowsDoNotMeet() throws Exception {
    ours()
        .onCheckpoint(
            response(
                residual(at("one", 1, EARLY, LATE), NO_DELAY, Map.of()),
                residual(at("two", 2, EARLY), NO_DELAY, Map.of())));
    List<TimerData> one = runner.timersOf(KV.of("one", 0)).pending();
    assertEquals(2, one.size());
    List<WindowedValue<KV<String, Integer>>> resumed = new ArrayList<>();
    one.forEach(timer -> resumed.add(runner.resumed("one", timer)));
    assertEquals(2, resumed.size());
    for (IntervalWindow window : List.of(EARLY, LATE)) {
      assertTrue(
          resumed.stream()
              .filter(each -> each.getWindows().equals(List.of(window)))
              .anyMatch(each -> each.getValue().getValue() == 1));
    }
    assertEquals(
        at("two", 2, EARLY), runner.resumed("two", runner.timersOf(KV.of("two", 0)).pending().get(0)));
  }

  @Test
  public void anEmptyResidualIsPassedOver() throws Exception {
    DelayedBundleApplication whole = residual(at("lane", 1, EARLY), NO_DELAY, Map.of());
    ours().onCheckpoint(response(whole.toBuilder().clearApplication().build()));
    assertTrue(runner.timers.isEmpty());
  }

  /** A bounded job's stage has one set of timers and cells for all of its elements. */
  @Test
  public void aBoundedJobKeepsAllResiduals() throws Exception {
    InMemoryTimerInternals timers = new InMemoryTimerInternals();
    StateInternals states = InMemoryStateInternals.forKey("all");
    BundleCheckpointHandler handler =
        new StateAndTimerBundleCheckpointHandler<>(value -> timers, value -> states, CODER, WINDOWS);
    handler.onCheckpoint(deferred("one", 1));
    handler.onCheckpoint(deferred("two", 2));
    handler.onCheckpoint(deferred("one", 3));
    timers.advanceProcessingTime(BoundedWindow.TIMESTAMP_MAX_VALUE);
    List<WindowedValue<KV<String, Integer>>> resumed = new ArrayList<>();
    for (TimerData due; (due = timers.removeNextProcessingTimer()) != null; ) {
      resumed.add(states.state(due.getNamespace(), StateTags.value(due.getTimerId(), CODER)).read());
    }
    assertEquals(3, resumed.size());
    for (WindowedValue<KV<String, Integer>> each :
        List.of(at("one", 1, EARLY), at("two", 2, EARLY), at("one", 3, EARLY))) {
      assertTrue(resumed.contains(each));
    }
    // While it drains, the stage's clock stands at the end of time.
    handler.onCheckpoint(deferred("one", 4));
    assertEquals(
        at("one", 4, EARLY),
        states
            .state(
                StateNamespaces.window(IntervalWindow.getCoder(), EARLY),
                StateTags.value(timers.removeNextProcessingTimer().getTimerId(), CODER))
            .read());
  }

  @Test
  public void timersOfAnotherRunnerAreRefused() throws Exception {
    BundleCheckpointHandler handler =
        new StateAndTimerBundleCheckpointHandler<>(runner::timersOf, runner::statesOf, CODER, WINDOWS);
    assertThrows(IllegalStateException.class, () -> handler.onCheckpoint(deferred("lane", 1)));
  }
}
