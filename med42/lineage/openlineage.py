"""OpenLineage events of a chain of records: a start and an end for every artifact, for catalogues that collect them.

The records are the store, these an export of them; the library's own classes write them, so that they have its form.
"""

from __future__ import annotations

import datetime
import json
import uuid
from collections.abc import Iterable, Mapping

from med42 import __version__
from med42.lineage.record import Record

PRODUCER = f"urn:med42-pipeline:{__version__}"


def events(recipe_name: str, ordered: Iterable[Record], records: Mapping[str, Record]) -> list[str]:
    """JSON texts, in the order of the records; runs have names made from their digests, so that a second export is the same."""
    from openlineage.client.event_v2 import InputDataset, Job, OutputDataset, Run, RunEvent, RunState
    from openlineage.client.facet_v2 import datasource_dataset, documentation_job, processing_engine_run, source_code_location_job
    from openlineage.client.serde import Serde

    namespace = f"med42/{recipe_name}"
    texts = []
    for record in ordered:
        started = datetime.datetime.fromisoformat(record.made.started)
        inputs = [InputDataset(namespace, f"{records[digest].name}@{digest[:16]}") for _, digest in sorted(record.inputs.items())
                  if digest in records]
        source = datasource_dataset.DatasourceDatasetFacet(name=record.kind, uri=f"urn:sha256:{record.digest}", producer=PRODUCER)
        output = OutputDataset(namespace, f"{record.name}@{record.digest[:16]}", facets={"dataSource": source})
        summary = str(record.measured.get("summary", ""))
        facets = {"documentation": documentation_job.DocumentationJobFacet(summary, producer=PRODUCER)}
        if record.made.commit:
            facets["sourceCodeLocation"] = source_code_location_job.SourceCodeLocationJobFacet(  # type: ignore[assignment]
                type="git", url="urn:med42-pipeline:source", version=record.made.commit, producer=PRODUCER)
        engine = processing_engine_run.ProcessingEngineRunFacet(version=__version__, name="med42-pipeline", producer=PRODUCER)
        run = Run(str(uuid.uuid5(uuid.NAMESPACE_URL, f"med42:{record.digest}:{record.made.run}")), facets={"processing_engine": engine})
        job = Job(namespace, record.stage, facets=facets)  # type: ignore[arg-type]
        for state, moment, made in ((RunState.START, started, []),
                                    (RunState.COMPLETE, started + datetime.timedelta(seconds=record.made.seconds), [output])):
            event = RunEvent(eventTime=moment.isoformat(), run=run, job=job, producer=PRODUCER, inputs=inputs, outputs=made,
                             eventType=state)
            texts.append(json.dumps(json.loads(Serde.to_json(event)), sort_keys=True))
    return texts
