package org.apache.beam.runners.fnexecution.control;

import java.lang.reflect.Field;
import org.apache.beam.runners.core.StateNamespace;
import org.apache.beam.runners.core.TimerInternals;
import org.apache.beam.runners.fnexecution.control.BundleCheckpointHandlers.PendingTimers;
import org.apache.flink.api.common.state.MapState;

/**
 * Asks the timers of Beam's Flink runner, which knows its pending timers in state, and shows them to nobody.
 *
 * <p>Reads fields of Beam 2.70 by name. The key asked about is the one that the runner's state was set to
 * last.
 */
final class FlinkPendingTimers implements PendingTimers {

  @Override
  public boolean isPending(TimerInternals timers, StateNamespace namespace, String timerId) {
    try {
      Object operator = read(timers, "this$0");
      MapState<?, ?> pending = (MapState<?, ?>) read(read(operator, "timerInternals"), "pendingTimersById");
      @SuppressWarnings("unchecked")
      MapState<String, ?> byId = (MapState<String, ?>) pending;
      // The family, which residuals' timers have none of, and the id; the runner adds the window to both.
      return byId.contains("+" + timerId + namespace.stringKey());
    } catch (Exception e) {
      throw new IllegalStateException(
          "cannot tell which timers are pending: this class is made for the Flink runner of Beam 2.70", e);
    }
  }

  private static Object read(Object of, String name) throws ReflectiveOperationException {
    for (Class<?> type = of.getClass(); type != null; type = type.getSuperclass()) {
      for (Field field : type.getDeclaredFields()) {
        if (field.getName().equals(name)) {
          field.setAccessible(true);
          return field.get(of);
        }
      }
    }
    throw new NoSuchFieldException(of.getClass().getName() + "." + name);
  }
}
