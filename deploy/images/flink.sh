#!/usr/bin/env bash
# Starts one of Flink's programs: flink.sh jobmanager [HOST] | taskmanager | jobserver FLINK_MASTER JOB_PORT.
# The configuration lies in FLINK_CONF_DIR; only /tmp and what it names are written.
set -euo pipefail
home=${FLINK_HOME:-/opt/flink}
conf=${FLINK_CONF_DIR:-$home/conf}
java=${JAVA:-java}
export FLINK_CONF_DIR=$conf FLINK_PLUGINS_DIR=$home/plugins

jars() { # of a folder, in the order of their names
  local found=("$1"/*.jar)
  (IFS=: && echo "${found[*]}")
}

# What Flink's own scripts give Java 17: its serializers look into the library's classes.
opened=()
for name in java.base/sun.net.util java.rmi/sun.rmi.registry jdk.compiler/com.sun.tools.javac.{api,file,parser,tree,util} \
  java.security.jgss/sun.security.krb5; do
  opened+=("--add-exports=$name=ALL-UNNAMED")
done
for name in java.base/java.{lang,net,io,nio,lang.reflect,text,time,util,util.concurrent,util.concurrent.atomic,util.concurrent.locks} \
  java.base/sun.nio.ch; do
  opened+=("--add-opens=$name=ALL-UNNAMED")
done

run() { # MAIN JM|TM ARGUMENTS...: with the memory that the configuration says
  local main=$1 of=$2 said flags memory
  shift 2
  said=$("$java" -cp "$home/bin/bash-java-utils.jar:$(jars "$home/lib")" org.apache.flink.runtime.util.bash.BashJavaUtils \
    "GET_${of}_RESOURCE_PARAMS" --configDir "$conf" 2>&1) || { echo "$said" >&2 && exit 1; }
  said=$(sed -n 's/^.*BASH_JAVA_UTILS_EXEC_RESULT://p' <<<"$said")
  read -r -a flags <<<"$(sed -n 1p <<<"$said")"
  read -r -a memory <<<"$(sed -n 2p <<<"$said")"
  exec "$java" "${flags[@]}" "${opened[@]}" -XX:+UseParallelGC -Djava.io.tmpdir=/tmp \
    "-Dlog4j.configurationFile=file:$home/log4j-console.properties" -classpath "$(jars "$home/lib")" "$main" \
    --configDir "$conf" "$@" "${memory[@]}"
}

case ${1-} in
  jobmanager)
    run org.apache.flink.runtime.entrypoint.StandaloneSessionClusterEntrypoint JM \
      --executionMode cluster ${2:+--host "$2"}
    ;;
  taskmanager) run org.apache.flink.runtime.taskexecutor.TaskManagerRunner TM ;;
  jobserver)
    exec "$java" -Xmx1024m -XX:MaxDirectMemorySize=1024m -XX:+ExitOnOutOfMemoryError \
      --add-opens=java.base/{java.lang,java.nio,java.util,sun.nio.ch}=ALL-UNNAMED \
      -Dorg.slf4j.simpleLogger.showDateTime=true "-Dorg.slf4j.simpleLogger.dateTimeFormat=yyyy-MM-dd'T'HH:mm:ss.SSSXXX" \
      -Djava.io.tmpdir=/tmp -cp "$(jars "$home/gradle/wrapper")" org.apache.beam.runners.flink.FlinkJobServerDriver \
      "--flink-master=$2" --job-host=127.0.0.1 "--job-port=$3" --artifact-port=0 --expansion-port=-1 \
      --artifacts-dir=/tmp/artifacts
    ;;
  *)
    echo "flink.sh: jobmanager, taskmanager or jobserver, not '${1-}'" >&2
    exit 2
    ;;
esac
