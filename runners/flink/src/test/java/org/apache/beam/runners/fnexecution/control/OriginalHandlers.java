package org.apache.beam.runners.fnexecution.control;

import java.net.URL;
import java.net.URLClassLoader;
import org.apache.beam.runners.core.StateInternalsFactory;
import org.apache.beam.runners.core.TimerInternalsFactory;
import org.apache.beam.sdk.coders.Coder;

/** Beam's own class of the name that ours takes, read past ours from the jar of its neighbours. */
final class OriginalHandlers {

  private OriginalHandlers() {}

  static BundleCheckpointHandler make(
      TimerInternalsFactory<?> timers, StateInternalsFactory<?> states, Coder<?> residuals, Coder<?> windows)
      throws Exception {
    URL jar = BundleCheckpointHandler.class.getProtectionDomain().getCodeSource().getLocation();
    ClassLoader loader = new PastOurs(jar);
    Class<?> handler =
        loader.loadClass(
            BundleCheckpointHandlers.StateAndTimerBundleCheckpointHandler.class.getName());
    if (handler == BundleCheckpointHandlers.StateAndTimerBundleCheckpointHandler.class) {
      throw new AssertionError("that is ours");
    }
    return (BundleCheckpointHandler)
        handler
            .getConstructor(
                TimerInternalsFactory.class, StateInternalsFactory.class, Coder.class, Coder.class)
            .newInstance(timers, states, residuals, windows);
  }

  private static final class PastOurs extends URLClassLoader {
    private static final String NAME = BundleCheckpointHandlers.class.getName();

    PastOurs(URL jar) {
      super(new URL[] {jar}, BundleCheckpointHandlers.class.getClassLoader());
    }

    @Override
    protected Class<?> loadClass(String name, boolean resolve) throws ClassNotFoundException {
      if (!name.startsWith(NAME)) {
        return super.loadClass(name, resolve);
      }
      Class<?> known = findLoadedClass(name);
      return known != null ? known : findClass(name);
    }
  }
}
