"""The predecessor's silver files: bars by row number, a file a timeframe and month."""

from __future__ import annotations

import re
from typing import Any

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from fibflow.io.aws import AwsConfig
from fibflow.io.convert import to_double, to_symbol, to_utc_us
from fibflow.io.dialect import ALIASES
from fibflow.io.files import InputError, RawFile, filesystem_for, list_raw
from fibflow.transforms.timeframe import Timeframe, TimeframeError

#: The columns that a bar has there, beside its symbol and time.
VALUES = ("open", "high", "low", "close", "volume")

_FOLDER = re.compile(r"(?:^|/)silver_(\d+[mhd])(?=/)")


class Silver:
    """The predecessor's silver files at or under ``uri``: ``silver_<timeframe>/**/*.parquet``.

    Raises:
        InputError: there are none.
    """

    def __init__(self, uri: str, aws: AwsConfig | None = None) -> None:
        self.uri = uri
        self._filesystem: pafs.FileSystem = filesystem_for(uri, aws)[0]
        self._files: dict[str, list[RawFile]] = {}
        for file in list_raw(uri, aws):
            if file.is_parquet and (found := _FOLDER.findall(file.path)):
                self._files.setdefault(found[-1], []).append(file)
        if not self._files:
            raise InputError(f"{uri}: no folder silver_3d, silver_5d or the like with Parquet files is in it")

    @property
    def timeframes(self) -> list[str]:
        """The timeframes that there are files of, shortest first.

        Raises:
            InputError: a folder's name is no timeframe.
        """
        try:
            return [t.name for t in sorted(map(Timeframe.parse, self._files))]
        except TimeframeError as error:
            raise InputError(f"{self.uri}: {error}") from None

    def read(self, timeframe: str) -> pa.Table:
        """Return the rows of a timeframe: symbol, ts and ``VALUES``, in order of the files' paths.

        Raises:
            InputError: there are no files of it, or one cannot be read.
        """
        if timeframe not in self._files:
            raise InputError(
                f"{self.uri}: no folder silver_{timeframe}; there are {', '.join(self.timeframes)}"
            )
        return pa.concat_tables([self._read(file) for file in self._files[timeframe]])

    def _read(self, file: RawFile) -> pa.Table:
        try:
            with self._filesystem.open_input_file(file.path) as source:
                parquet = pq.ParquetFile(source)
                names = {name.lower(): name for name in parquet.schema_arrow.names}
                found = {}
                for name in ("symbol", "ts", *VALUES):
                    there = [names[alias] for alias in ALIASES[name] if alias in names]
                    if not there:
                        wanted, has = " or ".join(ALIASES[name]), ", ".join(names.values())
                        raise InputError(f"{file.path}: no column for {name} ({wanted}); it has {has}")
                    found[name] = there[0]
                rows = parquet.read(list(found.values()), use_threads=False)
            columns: list[Any] = [to_symbol(rows[found["symbol"]]), to_utc_us(rows[found["ts"]])]
            columns += [to_double(rows[found[name]]) for name in VALUES]
        except (OSError, pa.ArrowException, TypeError) as error:
            line = (str(error).splitlines() or [type(error).__name__])[0]
            raise InputError(f"{file.path}: cannot be read as silver bars ({line})") from error
        table = pa.table(columns, names=["symbol", "ts", *VALUES])
        if table["symbol"].null_count or table["ts"].null_count:
            raise InputError(f"{file.path}: a row has no symbol, or no date that can be read")
        return table
