# All commands but the server's, and the Python workers of the stream. From the repository's root:
#   git archive HEAD | docker build -f deploy/images/pipelines.Dockerfile -t IMAGES:pipelines-VERSION -
# Debian's own Python, so that the same steps run in a bare Debian (deploy/images/try.sh). No digest is known here:
# where you can see one, --build-arg BASE=debian:12.12-slim@sha256:... takes it.
ARG BASE=debian:12.12-slim

FROM ${BASE} AS build
COPY . /source
RUN /source/deploy/images/build-python.sh pipelines /source /opt/fibflow

FROM ${BASE}
COPY deploy/images/install-runtime.sh /usr/local/sbin/
RUN /usr/local/sbin/install-runtime.sh python
COPY --from=build /opt/fibflow /opt/fibflow
# A pool starts workers by the name `python`; none of them looks for modules in its working folder.
ENV PATH=/opt/fibflow/bin:/usr/local/bin:/usr/bin:/bin HOME=/tmp PYTHONSAFEPATH=1 PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
WORKDIR /tmp
USER 10001:10001
ENTRYPOINT ["python", "-m"]
CMD ["fibflow.pipelines.inspect", "--help"]
# FIBFLOW_HEALTH names what to ask: http://127.0.0.1:9190/healthz of ingest, 9191 of notify.
HEALTHCHECK --interval=30s --timeout=5s --start-period=60s --retries=5 CMD ["python", "/opt/fibflow/healthy.py"]
