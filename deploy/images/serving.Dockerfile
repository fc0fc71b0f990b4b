# The server and its page. From the repository's root:
#   git archive HEAD | docker build -f deploy/images/serving.Dockerfile -t IMAGES:serving-VERSION -
# No digest is known here: where you can see one, --build-arg BASE=debian:12.12-slim@sha256:... takes it.
ARG BASE=debian:12.12-slim

FROM ${BASE} AS build
COPY . /source
RUN /source/deploy/images/build-python.sh serving /source /opt/fibflow

FROM ${BASE}
COPY deploy/images/install-runtime.sh /usr/local/sbin/
RUN /usr/local/sbin/install-runtime.sh python
COPY --from=build /opt/fibflow /opt/fibflow
ENV PATH=/opt/fibflow/bin:/usr/local/bin:/usr/bin:/bin HOME=/tmp PYTHONSAFEPATH=1 PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 \
    FIBFLOW_HEALTH=http://127.0.0.1:8000/healthz
WORKDIR /tmp
USER 10001:10001
EXPOSE 8000
ENTRYPOINT ["python", "-m"]
CMD ["fibflow.serving", "--help"]
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --retries=3 CMD ["python", "/opt/fibflow/healthy.py"]
