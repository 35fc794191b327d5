"""One export, from a loaded model to a LiteRT file in staging."""

from __future__ import annotations

from timmx_core.backend import Artifact, Context, ExportRequest, LoadedModel
from timmx_litert import container, converter, description
from timmx_litert.graph import Graph


def export(model: LoadedModel, request: ExportRequest, context: Context) -> Artifact:
    """Convert, lower the precision, describe, write.

    :raises ExportError: names the operator that has no counterpart, and its module.
    """
    return _Export(model, request, context).run()


class _Export:
    def __init__(self, model: LoadedModel, request: ExportRequest, context: Context) -> None:
        self.loaded = model
        self.request = request
        self.context = context

    def run(self) -> Artifact:
        graph = self._converted()
        with self.context.stage("write the LiteRT file"):
            operators = graph.counts()
            self._finish(graph)
            self.context.primary.write_bytes(graph.pack())
        return Artifact(
            primary=self.context.primary,
            inputs=self.loaded.inputs,
            outputs=self.loaded.outputs,
            report={"nodes": sum(operators.values()), "operators": operators},
        )

    def _converted(self) -> Graph:
        model = self.loaded
        with self.context.stage("capture"):
            program = model.capture()
        with self.context.stage("convert to LiteRT"):
            data = converter.convert(
                program, [i.name for i in model.inputs], [o.name for o in model.outputs]
            )
            return Graph(data)

    def _finish(self, graph: Graph) -> None:
        """What the file says of itself."""
        model = self.loaded
        graph.name_tensors()
        graph.model.description = b"timmx"
        graph.model.metadata = [m for m in graph.model.metadata or () if b"min_" in m.name]
        table = description.build(model.inputs[0], model.outputs, model.labels)
        graph.add_metadata(description.NAME, table)
        graph.add_metadata(container.MARK, b"1")
