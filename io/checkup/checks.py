"""All looks at an installation, and which of them were asked for."""

from __future__ import annotations

from fibflow.io.checkup import amazon, canary, jobs, laketables, machine, places, served, stores, streams
from fibflow.io.checkup.findings import Check
from fibflow.io.checkup.site import Site


def of(site: Site) -> list[Check]:
    """Return the checks, in the order in which they are told."""
    lake = (
        Check("bucket", places.bucket)
        if site.is_on_s3
        else Check("lake folder", places.folder, "--lake", site.lake is not None)
    )
    tells_time = site.uses_aws or site.redis is not None or site.postgres is not None
    return [
        Check("versions", machine.versions),
        Check("aws", amazon.identity, "--lake s3://..., --source, --dynamodb or --sns", site.uses_aws),
        lake,
        Check("lake tables" if site.lake else "calendar", laketables.calendar_and_tables),
        Check("kinesis", streams.kinesis, "--source", site.source is not None),
        Check("flink", jobs.flink, "--flink-master, or in FLINK_REST_URL", site.flink is not None),
        Check(
            "worker pool",
            machine.worker_pool,
            "--worker-pool, or in BEAM_WORKER_POOL",
            site.worker_pool is not None,
        ),
        Check("redis", stores.live_store, "--redis, or in REDIS_URL", site.redis is not None),
        Check("postgresql", stores.postgresql, "--postgres, or in DATABASE_URL", site.postgres is not None),
        Check("alerts", stores.alerts, "--postgres, or in DATABASE_URL", site.postgres is not None),
        Check(
            "dynamodb",
            amazon.dynamodb,
            "--dynamodb or --dynamodb-ticks",
            bool(site.dynamodb or site.dynamodb_ticks),
        ),
        Check("sns", amazon.topic, "--sns", site.sns is not None),
        Check("server", served.server, "--server, or in FIBFLOW_SERVER_URL", site.server is not None),
        Check("vendor", served.vendor, "--vendor", site.vendor is not None),
        Check("canary", canary.canary, "--canary", site.canary is not None),
        # Those that were named tell the time along with the rest.
        *(
            []
            if tells_time
            else [Check("clock", lambda _: iter(()), "--redis, --postgres, or what AWS has", False)]
        ),
    ]
