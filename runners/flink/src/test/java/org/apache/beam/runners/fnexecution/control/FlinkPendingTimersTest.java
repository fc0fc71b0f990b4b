package org.apache.beam.runners.fnexecution.control;

import static org.junit.Assert.assertEquals;
import static org.junit.Assert.assertTrue;

import java.lang.reflect.Field;
import org.apache.beam.runners.core.TimerInternals;
import org.apache.flink.api.common.state.MapState;
import org.junit.Test;

/** The fields of Beam's runner that are read by name; jobs on an embedded Flink show what they hold. */
public class FlinkPendingTimersTest {

  private static final String PACKAGE = "org.apache.beam.runners.flink.translation.wrappers.streaming.";

  @Test
  public void theRunnerHasTheFields() throws Exception {
    Class<?> timers = Class.forName(PACKAGE + "ExecutableStageDoFnOperator$SdfFlinkTimerInternals");
    assertTrue(TimerInternals.class.isAssignableFrom(timers));
    Field operator = timers.getDeclaredField("this$0");
    Class<?> base = Class.forName(PACKAGE + "DoFnOperator");
    assertEquals(base, operator.getType().getSuperclass());
    Field ofOperator = base.getDeclaredField("timerInternals");
    assertEquals(MapState.class, ofOperator.getType().getDeclaredField("pendingTimersById").getType());
  }
}
