"""Write a finished run's results to a Delta table, too; needs the extra spips[delta]."""

import pyarrow as pa

from pipeline.runs.errors import ContractError, FaultError
from pipeline.runs.finished import FinishedRun
from pipeline.runs.storage import deltalake_options, describe
from pipeline.runs.uris import plain_uri, redact

ROWS_PER_BATCH = 10_000
SIGNED = {pa.uint8(): pa.int16(), pa.uint16(): pa.int32(), pa.uint32(): pa.int64()}
"""Types without sign, which Delta lacks, and what holds their values."""


def check_delta(uri: str, columns: pa.Schema) -> None:
    """Check that the library is there and that a Delta table can hold columns.

    Raises:
        ContractError: the library is missing, or a column has a type that Delta lacks.
    """
    try:
        import deltalake  # noqa: F401  # of an extra
    except ImportError as error:
        raise ContractError(
            f"output.delta_uri: {redact(uri)}: pip install 'spips[delta]' first: {error}"
        ) from error
    wrong = [
        f"output.delta_uri: expected columns that a Delta table holds, got {field.name!r} as "
        f"{field.type}"
        for field in columns
        if pa.types.is_time(field.type)
        or pa.types.is_duration(field.type)
        or pa.types.is_float16(field.type)
        or pa.types.is_decimal256(field.type)
        or pa.types.is_interval(field.type)
        or field.type == pa.uint64()
    ]
    if wrong:
        raise ContractError(*wrong)


def write_delta(run: FinishedRun, uri: str) -> str:
    """Write a run's rows to a Delta table with a partition for each run, unless they are there.

    The rows of an attempt are written in one commit, which names run and attempt. So the same
    command again writes nothing, and a retry's rows replace the run's.

    Returns:
        A line for people.

    Raises:
        FaultError: the table cannot be read or written.
    """
    from deltalake import CommitProperties, Transaction, write_deltalake

    options, place = deltalake_options(), plain_uri(uri)
    done = Transaction(f"spips run {run.run_id}", run.num_attempts)
    schema = pa.schema([_to_delta(field) for field in run.scores.schema])
    batches = run.scores.to_batches(batch_size=ROWS_PER_BATCH)
    rows = pa.RecordBatchReader.from_batches(
        schema, (part for batch in batches for part in pa.table(batch).cast(schema).to_batches())
    )
    run_id = run.run_id.replace("'", "''")
    try:
        if (_last_attempt(place, options, done.app_id) or 0) >= done.version:
            return f"delta     {redact(uri)} has these results already"
        write_deltalake(
            place, rows, mode="overwrite", predicate=f"run_id = '{run_id}'",
            partition_by=["run_id"], schema_mode="merge", storage_options=options,
            commit_properties=CommitProperties(app_transactions=[done]),
        )  # fmt: skip
    except Exception as error:  # deltalake raises bare exceptions, too
        raise FaultError(
            f"output.delta_uri: {redact(uri)} cannot be written: {describe(error)}; the results "
            f"are published in {run.uri}, and the same command writes the table"
        ) from error
    return f"delta     {redact(uri)}, the partition run_id={run.run_id}"


def _last_attempt(place: str, options: dict[str, str], run: str) -> int | None:
    from deltalake import DeltaTable
    from deltalake.exceptions import TableNotFoundError

    try:
        return DeltaTable(place, storage_options=options).transaction_version(run)
    except TableNotFoundError:
        return None


def _to_delta(field: pa.Field) -> pa.Field:
    type_ = field.type
    if pa.types.is_dictionary(type_):
        type_ = type_.value_type
    if pa.types.is_null(type_):
        type_ = pa.string()
    return pa.field(field.name, SIGNED.get(type_, type_))
