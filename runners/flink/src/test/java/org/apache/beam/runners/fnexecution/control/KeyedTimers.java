package org.apache.beam.runners.fnexecution.control;

import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import org.apache.beam.runners.core.StateNamespace;
import org.apache.beam.runners.core.TimerInternals;
import org.apache.beam.sdk.state.TimeDomain;
import org.joda.time.Instant;

/**
 * The timers of one key, by the rules of the Flink runner: a timer that is set again moves, one that fires is
 * gone, and none can be deleted here.
 */
final class KeyedTimers implements TimerInternals {

  private final Map<String, TimerData> pending = new LinkedHashMap<>();
  private Instant now = Instant.ofEpochMilli(1_000_000);

  static boolean isPending(TimerInternals timers, StateNamespace namespace, String timerId) {
    return ((KeyedTimers) timers).pending.containsKey(timerId + namespace.stringKey());
  }

  /** Moves the clock, and returns and removes the timers that are due. */
  List<TimerData> advance(Instant to) {
    now = to;
    List<TimerData> due = pending.values().stream().filter(each -> !each.getTimestamp().isAfter(to)).toList();
    pending.values().removeAll(due);
    return due;
  }

  List<TimerData> pending() {
    return List.copyOf(pending.values());
  }

  @Override
  public void setTimer(
      StateNamespace namespace,
      String timerId,
      String timerFamilyId,
      Instant target,
      Instant outputTimestamp,
      TimeDomain timeDomain) {
    pending.put(
        timerId + namespace.stringKey(),
        TimerData.of(timerId, timerFamilyId, namespace, target, outputTimestamp, timeDomain));
  }

  @Override
  @Deprecated
  public void setTimer(TimerData timer) {
    throw new UnsupportedOperationException();
  }

  @Override
  public void deleteTimer(StateNamespace namespace, String timerId, String family, TimeDomain domain) {
    throw new UnsupportedOperationException();
  }

  @Override
  @Deprecated
  public void deleteTimer(StateNamespace namespace, String timerId, String timerFamilyId) {
    throw new UnsupportedOperationException();
  }

  @Override
  @Deprecated
  public void deleteTimer(TimerData timer) {
    throw new UnsupportedOperationException();
  }

  @Override
  public Instant currentProcessingTime() {
    return now;
  }

  @Override
  public Instant currentSynchronizedProcessingTime() {
    return now;
  }

  @Override
  public Instant currentInputWatermarkTime() {
    throw new UnsupportedOperationException();
  }

  @Override
  public Instant currentOutputWatermarkTime() {
    throw new UnsupportedOperationException();
  }
}
