# Flink's job and task managers with Beam's classes, and Beam's job server. From the repository's root:
#   git archive HEAD | docker build -f deploy/images/flink.Dockerfile -t IMAGES:flink-VERSION -
# No digest is known here: where you can see one, --build-arg BASE=debian:12.12-slim@sha256:... takes it.
ARG BASE=debian:12.12-slim

FROM ${BASE} AS build
COPY . /source
RUN /source/deploy/images/build-flink.sh /source /opt/flink

FROM ${BASE}
COPY deploy/images/install-runtime.sh /usr/local/sbin/
RUN /usr/local/sbin/install-runtime.sh java
COPY --from=build /opt/flink /opt/flink
ENV FLINK_HOME=/opt/flink FLINK_CONF_DIR=/opt/flink/conf HOME=/tmp FLINK_HEALTH_PORT=8081
WORKDIR /tmp
USER 10001:10001
EXPOSE 8081
ENTRYPOINT ["/opt/flink/flink.sh"]
CMD ["jobmanager"]
# A task manager: FLINK_HEALTH_PORT=9249, where its metrics are.
HEALTHCHECK --interval=30s --timeout=5s --start-period=60s --retries=3 \
    CMD ["bash", "-c", "exec 3<>/dev/tcp/127.0.0.1/$FLINK_HEALTH_PORT"]
