"""The contract of formats on formats that break it. Run by `tests/core/test_contract_faults.py`.

Each case says which of its tests must fail; every other must not.
"""

from __future__ import annotations

from typing import ClassVar

import faulty_formats as faulty
from heavy_format import HeavyImport
from old_format import OldContract

from timmx_core.testing import BackendContract
from timmx_core.testing.files import FOREIGN

NOTHING_LEFT = "test_nothing_is_left_after_a_failure"


class Faulty(BackendContract):
    """What no fault here is about is left out, since each costs an export."""

    deterministic = False
    no_transformer = "not about the model"
    no_several_outputs = "not about the outputs"
    expected: ClassVar[tuple[str, ...]]


class TestHeavyImport(Faulty):
    backend = HeavyImport
    expected = ("test_importing_it_is_light",)


class TestHeavyCheck(Faulty):
    backend = faulty.HeavyCheck
    expected = ("test_asking_this_machine_is_light",)


class TestHeavyRead(Faulty):
    backend = faulty.HeavyRead
    expected = ("test_reading_needs_no_converter",)


class TestPrintsInRead(Faulty):
    backend = faulty.PrintsInRead
    expected = ("test_reading_needs_no_converter",)


class TestCrashesAtExit(Faulty):
    backend = faulty.CrashesAtExit
    expected = ("test_asking_this_machine_is_light",)


class TestCollidingOption(Faulty):
    backend = faulty.CollidingOption
    expected = ("test_its_description_is_valid",)


class TestNotRefusing(Faulty):
    backend = faulty.NotRefusing
    unsupported = ({"level": 99},)
    expected = ("test_an_unsupported_request_says_why[level=99]",)


class TestOldContract(Faulty):
    backend = OldContract
    expected = ("test_its_plugin_loads",)


class TestOddReport(Faulty):
    backend = faulty.OddReport
    expected = ("test_the_plain_export_works",)


class TestUndeclaredOption(Faulty):
    backend = faulty.UndeclaredOption
    expected = ("test_the_plain_export_works",)


class TestUndeclaredGet(Faulty):
    backend = faulty.UndeclaredGet
    expected = ("test_the_plain_export_works",)


class TestOldSignature(Faulty):
    backend = faulty.OldSignature
    expected = ("test_its_methods_take_what_they_are_given",)


class TestLeftWhileConverting(Faulty):
    backend = faulty.LeftWhileConverting
    expected = (f"{NOTHING_LEFT}[while converting]",)


class TestPartialFile(Faulty):
    backend = faulty.PartialFile
    expected = ("test_the_plain_export_works",)


class TestWrongSuffix(Faulty):
    backend = faulty.WrongSuffix
    expected = ("test_its_description_is_valid",)


class TestClashingName(Faulty):
    backend = faulty.ClashingName
    expected = ("test_its_description_is_valid",)


class TestLeavesALimit(Faulty):
    backend = faulty.LeavesALimit
    expected = ("test_the_process_is_as_it_was",)


class TestWritesElsewhere(Faulty):
    backend = faulty.WritesElsewhere
    expected = (
        "test_it_writes_in_its_staging_folder_only",
        f"{NOTHING_LEFT}[while converting]",
    )


class TestWritesBesideTarget(Faulty):
    backend = faulty.WritesBesideTarget
    expected = (
        f"{NOTHING_LEFT}[while converting]",
        f"{NOTHING_LEFT}[after converting]",
        f"{NOTHING_LEFT}[while embedding]",
        "test_it_writes_in_its_staging_folder_only",
        # There its embedding finds nothing to tidy up.
        "test_changed_weights_are_found[fp32]",
        "test_changed_weights_are_found[fp16]",
    )


class TestIgnoresPrecision(Faulty):
    backend = faulty.IgnoresPrecision
    expected = ("test_each_precision_gives_another_file[fp16]",)


class TestRoughPrecision(Faulty):
    backend = faulty.RoughPrecision
    expected = ("test_round_trip_of_a_cnn[fp16]",)


class TestWrongNames(Faulty):
    backend = faulty.WrongNames
    expected = ("test_the_file_has_the_ports_it_declares",)


class TestWrongDtype(Faulty):
    backend = faulty.WrongDtype
    expected = ("test_the_file_has_the_ports_it_declares",)


class TestSwallowsBatch(Faulty):
    backend = faulty.SwallowsBatch
    expected = (
        "test_a_static_batch_of_three",
        "test_a_dynamic_batch",
        "test_every_image_of_a_large_batch_is_compared",
    )


class TestConstantOutput(Faulty):
    backend = faulty.ConstantOutput
    expected = ("test_round_trip_of_a_cnn[fp32]",)


class TestNotANumber(Faulty):
    backend = faulty.NotANumber
    expected = ("test_round_trip_of_a_cnn[fp32]",)


class TestForgetsSoftmax(Faulty):
    backend = faulty.ForgetsSoftmax
    expected = ("test_softmax_in_the_file",)


class TestNotEmbedding(Faulty):
    backend = faulty.NotEmbedding
    expected = ("test_the_plain_export_works",)


class TestNoDigest(Faulty):
    backend = faulty.NoDigest
    expected = ("test_what_it_computes_has_a_digest",)


class TestDigestOfAll(Faulty):
    backend = faulty.DigestOfAll
    expected = ("test_the_plain_export_works",)


class TestDigestOfGraph(Faulty):
    backend = faulty.DigestOfGraph
    expected = (
        "test_changed_weights_are_found[fp32]",
        "test_changed_weights_are_found[fp16]",
    )


class TestRaisesOnForeign(Faulty):
    backend = faulty.RaisesOnForeign
    expected = (
        "test_truncated_files_end_in_an_error",
        *(f"test_foreign_files_are_not_taken_for_its_own[{kind}]" for kind in FOREIGN),
    )


class TestUnquotedNames(Faulty):
    backend = faulty.UnquotedNames
    expected = ("test_text_of_a_file_is_no_code_in_its_snippet",)


class TestRandom(Faulty):
    backend = faulty.Random
    deterministic = True
    expected = ("test_the_same_request_gives_the_same_bytes",)
