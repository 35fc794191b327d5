"""Whether the file does what PyTorch does, in every form that can be asked of a format."""

from __future__ import annotations

from typing import Any

import pytest

from timmx_core.errors import RequestError, VerificationError
from timmx_core.files.publishing import member_digests
from timmx_core.testing.case import Case
from timmx_core.testing.lab import Lab, ports


class RoundTripTests(Case):
    """Exports of tiny models, verified by the format's own runtime in another process."""

    def test_the_plain_export_works(self, lab: Lab) -> None:
        """The tiny CNN without any option becomes a file."""
        lab.require_export()
        result = lab.plain()
        assert result.path is not None
        assert result.path.exists()

    def test_the_file_has_the_ports_it_declares(self, lab: Lab) -> None:
        """The runner takes and gives the names, dtypes and shapes of the artifact's specs."""
        result = lab.require_plain()
        lab.require_runtime()
        assert ports_problem(lab) == ""
        assert result.manifest["outputs"]

    def test_round_trip_of_a_cnn(self, lab: Lab, precision: str) -> None:
        """At least the precision's own floor against PyTorch in fp32."""
        self.require_sound(lab, precision)
        lab.check(lab.at_precision(precision))

    def test_each_precision_gives_another_file(self, lab: Lab, precision: str) -> None:
        """--precision is not ignored: what the converter leaves differs from the default's."""
        self.require_sound(lab, precision)
        first = lab.backend.precisions[0].name
        if precision == first:
            pytest.skip("the default itself")
        assert converted(lab, precision) != lab.kept("converted", lambda: converted(lab, first))

    def test_round_trip_of_a_transformer(self, lab: Lab, precision: str) -> None:
        """At least the precision's own floor against PyTorch in fp32."""
        from timmx_core.testing.models import tiny_vit

        self.require_sound(lab, precision)
        lab.require_basic()
        if self.no_transformer:
            pytest.skip(self.no_transformer)
        lab.check(lab.export(tiny_vit(), precision=precision))

    def test_a_static_batch_of_three(self, lab: Lab) -> None:
        """--batch-size 3: each image of a batch gets its own answer."""
        from timmx_core.testing.models import tiny_cnn

        self.require_sound(lab)
        skip_refused(lab, "batch_size")
        result = lab.export(tiny_cnn(), batch_size=3)
        lab.check(result)
        assert ports(result, "inputs")[0].shape[0] == 3

    def test_every_image_of_a_large_batch_is_compared(self, lab: Lab) -> None:
        """--batch-size 16, with answers that are wrong after the eighth: it is found out."""
        from timmx_core.testing.models import WrongLater, tiny_cnn
        from timmx_core.verification.probes import COUNT

        self.require_sound(lab)
        lab.require_runtime()
        skip_refused(lab, "batch_size")
        batch = 2 * COUNT
        with pytest.raises(VerificationError, match="failed"):
            lab.export(WrongLater(tiny_cnn(), COUNT, batch), batch_size=batch)
        lab.check(lab.export(WrongLater(tiny_cnn(), batch, batch), batch_size=batch))

    def test_a_dynamic_batch(self, lab: Lab) -> None:
        """--dynamic-batch: one image, several, and another number of them."""
        from timmx_core.testing.models import tiny_cnn

        self.require_sound(lab)
        skip_refused(lab, "dynamic_batch")
        if self.no_dynamic_batch:
            pytest.skip(self.no_dynamic_batch)
        result = lab.export(tiny_cnn(), dynamic_batch=True)
        lab.check(result)
        assert isinstance(ports(result, "inputs")[0].shape[0], tuple)
        batches = {m.batch for m in result.verdict.measurements if m.comparison == "file"}
        assert not lab.runs_here or len(batches) > 1

    def test_normalisation_in_the_file(self, lab: Lab) -> None:
        """--normalize: the caller gives pixels in [0, 1], and no mean or std is left to apply."""
        from timmx_core.testing.models import tiny_cnn

        self.require_sound(lab)
        result = lab.export(tiny_cnn(), normalize=True, mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.4))
        lab.check(result)
        port = ports(result, "inputs")[0]
        assert (port.mean, port.std, port.dtype) == ((), (), "float32")

    def test_uint8_pixels_in_nhwc(self, lab: Lab) -> None:
        """--uint8-input --nhwc-input: the caller gives the pixels as they come."""
        from timmx_core.testing.models import tiny_cnn

        self.require_sound(lab)
        skip_refused(lab, "uint8_input", "nhwc_input")
        result = lab.export(
            tiny_cnn(), uint8_input=True, nhwc_input=True, mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.4)
        )
        lab.check(result)
        port = ports(result, "inputs")[0]
        assert (port.dtype, port.layout, port.range) == ("uint8", "NHWC", (0.0, 255.0))
        assert port.mean == ()

    def test_softmax_in_the_file(self, lab: Lab) -> None:
        """--softmax: probabilities, and said to be that."""
        from timmx_core.testing.models import tiny_cnn

        self.require_sound(lab)
        result = lab.export(tiny_cnn(), softmax=True)
        lab.check(result)
        assert ports(result, "outputs")[0].role == "probabilities"

    def test_several_outputs(self, lab: Lab) -> None:
        """A model that gives two tensors: both are in the file, under their own names."""
        from timmx_core.testing.models import two_outputs

        self.require_sound(lab)
        if self.no_several_outputs:
            pytest.skip(self.no_several_outputs)
        result = lab.export(two_outputs())
        lab.check(result)
        assert [p.name for p in ports(result, "outputs")] == ["output_0", "output_1"]

    def test_feature_maps(self, lab: Lab) -> None:
        """--features --out-indices: maps of two strides, in the order that they are asked for."""
        from timmx_core.testing.models import TIMM_NAME

        self.require_sound(lab)
        if self.no_several_outputs:
            pytest.skip(self.no_several_outputs)
        result = lab.export(TIMM_NAME, features=True, out_indices=(2, 1), input_size=(3, 64, 64))
        lab.check(result)
        maps = ports(result, "outputs")
        assert [(m.role, m.shape[-2:]) for m in maps] == [
            ("features", (8, 8)),
            ("features", (16, 16)),
        ]
        assert [output["stride"] for output in result.manifest["outputs"]] == [8, 4]

    def test_labels_are_those_of_the_output(self, lab: Lab) -> None:
        """--labels: as many as the file gives classes, whatever the module says of itself."""
        from timmx_core.testing.models import CLASSES, tiny_cnn

        self.require_sound(lab)
        skip_refused(lab, "labels")
        model = tiny_cnn()
        model.num_classes = CLASSES + 1  # type: ignore[assignment]
        names = [f"class {index}" for index in range(CLASSES + 1)]
        files = [lab.fresh("labels") / "labels.txt" for _ in range(2)]
        for file, count in zip(files, (CLASSES, CLASSES + 1), strict=True):
            file.write_text("\n".join(names[:count]), encoding="utf-8")
        result = lab.export(model, labels=str(files[0]))
        lab.check(result)
        assert result.manifest["labels"] == names[:CLASSES]
        assert result.manifest["model"]["num_classes"] == CLASSES
        with pytest.raises(RequestError, match=f"{CLASSES + 1} labels for {CLASSES} classes"):
            lab.export(model, labels=str(files[1]))

    def test_a_file_is_verified_with_images_of_ones_own(self, lab: Lab) -> None:
        """timmx verify --probe-data: the model is built again as the manifest says."""
        import numpy as np
        from PIL import Image

        from timmx_core import api
        from timmx_core.testing.models import tiny_cnn

        self.require_sound(lab)
        lab.require_runtime()
        taken = {"uint8_input", "normalize"} - set(lab.backend.refuses)
        given: dict[str, Any] = dict.fromkeys(taken, True)
        result = lab.export(tiny_cnn(), **given)
        lab.check(result)
        assert result.path is not None
        folder = lab.fresh("images")
        for index in range(2):
            pixels = np.arange(48 * 48 * 3, dtype=np.uint32).reshape(48, 48, 3) * (index + 3) // 17
            Image.fromarray((pixels % 256).astype(np.uint8)).save(folder / f"{index}.png")
        verdict = api.verify(result.path, probe_data=folder, model=tiny_cnn(), manager=lab.manager)
        assert verdict.status == "verified", verdict.reason
        assert verdict.probes == result.verdict.probes + 2

    def test_another_models_file_fails(self, lab: Lab) -> None:
        """Other weights under this model's manifest are found out, and not published."""
        from timmx_core.testing.models import tiny_cnn

        self.require_sound(lab)
        lab.require_runtime()
        folder = lab.fresh("wrong")
        wrong = lab.exchanged(lab.files(tiny_cnn(seed=1)))
        with pytest.raises(VerificationError, match="failed"):
            lab.export(tiny_cnn(), backend=wrong, folder=folder)
        assert not list(folder.iterdir())

    def require_sound(self, lab: Lab, precision: str | None = None) -> None:
        """Skip where a more basic test has failed already: one fault is to be one failure."""
        if precision is not None and precision in self.skip_precisions:
            pytest.skip(self.skip_precisions[precision])
        lab.require_plain()
        if lab.runs_here:
            problem = ports_problem(lab)
            if problem:
                pytest.skip(f"the ports are wrong already: {problem}")
        first = lab.backend.precisions[0].name
        if precision != first and first not in self.skip_precisions:
            lab.require_basic()


def skip_refused(lab: Lab, *names: str) -> None:
    """Skip the test where the format refuses a shared option; that it says so is tested, too."""
    for name in names:
        if name in lab.backend.refuses:
            pytest.skip(f"refuses {name}: {lab.backend.refuses[name]}")


def converted(lab: Lab, precision: str) -> list[str]:
    """Digests of what the converter leaves, without the manifest."""
    from timmx_core.testing.models import tiny_cnn

    primary, *companions = lab.files(tiny_cnn(), precision=precision)
    return sorted(member_digests(primary, companions).values())


def ports_problem(lab: Lab) -> str:
    """Where what the plain file takes and gives departs from what its manifest declares."""
    return lab.kept("ports", lambda: _ports_problem(lab))


def _ports_problem(lab: Lab) -> str:
    result = lab.plain()
    assert result.path is not None
    outcome = lab.run(result.path, ports(result, "inputs"), 1)
    if outcome.outputs is None:
        return outcome.reason
    got = outcome.outputs[1]
    declared = {spec.name: spec for spec in ports(result, "outputs")}
    if set(got) != set(declared):
        return f"the runner gives {sorted(got)}, declared are {sorted(declared)}"
    for name, spec in declared.items():
        if str(got[name].dtype) != spec.dtype:
            return f"{name} is {got[name].dtype}, declared is {spec.dtype}"
        if got[name].shape[1:] != spec.shape[1:]:
            return f"{name} is {got[name].shape[1:]} per image, declared is {spec.shape[1:]}"
    return ""
