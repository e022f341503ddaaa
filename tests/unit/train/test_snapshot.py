"""What a snapshot must have in common with the fine-tune that goes on from it; files that are written tensor by tensor."""

import copy
import errno
import hashlib
import types
from collections.abc import Iterator

import pytest
import torch
from safetensors.torch import load_file
from tiny_base import make_spec

from inoc_ray.config.identity import content_id
from inoc_ray.data.tokenize import EncodedRow, encoded_hash
from inoc_ray.errors import InputError
from inoc_ray.store import snapshots as stored
from inoc_ray.store.filesystem import LocalFilesystem
from inoc_ray.store.place import at
from inoc_ray.study.resources import TrialResources
from inoc_ray.train import process, snapshot, tensor_file
from inoc_ray.train.flops import Work
from inoc_ray.train.measure import Sums
from inoc_ray.train.shards import shares_of
from inoc_ray.train.snapshot import Notice, Position, Snapshots, identity_of
from inoc_ray.train.spec import StepRecord


def test_another_recipe_or_seed_is_another_fine_tune_and_other_resources_are_not():
    def of(**changes) -> str:
        return content_id(identity_of(make_spec("/base", **changes)))

    assert of(workers=2, zero_stage=3, micro_batch_size=1, snapshot_minutes=1.0, checkpoints=(1,)) == of()
    assert len({of(), of(seed=1), of(learning_rate=1e-3), of(steps=7), of(enable_thinking=False)}) == 5


def test_a_snapshot_comes_in_time_though_every_step_is_followed_by_a_look_for_notices(tmp_path, monkeypatch):
    looks: list[None] = []
    taken: list[None] = []
    snapshots = Snapshots(at(tmp_path), of="t", minutes=1.0, notice=lambda: looks.append(None) or Notice.NOTHING)
    snapshots.rank, snapshots.world_size = 0, 1
    clock = snapshots.taken

    def take(position) -> bool:
        snapshots.taken = clock
        taken.append(position)
        return True

    monkeypatch.setattr(snapshot.time, "perf_counter", lambda: clock)
    monkeypatch.setattr(snapshots, "take", take)
    for _ in range(60):
        clock += 5.0  # a step of a large model
        snapshots.after_step(lambda: None)
    assert len(looks) == 60
    assert len(taken) == 5


def test_a_parameter_that_never_had_a_gradient_has_moments_of_zero():
    module = torch.nn.ModuleDict({"used": torch.nn.Linear(2, 2), "unused": torch.nn.Linear(2, 2)})
    optimizer = torch.optim.AdamW(module.parameters(), lr=1.0)
    module["used"](torch.ones(2)).sum().backward()
    optimizer.step()
    shares = shares_of(types.SimpleNamespace(module=module, optimizer=optimizer))
    moments = {one.name: one.get() for one in shares.fragments() if one.kind == "exp_avg"}
    assert moments.keys() == dict(module.named_parameters()).keys()
    assert moments["used.weight"].all()
    assert not moments["unused.weight"].any()
    assert shares.steps_taken() == 1


def an_engine() -> types.SimpleNamespace:
    """One parameter after one step of its optimizer, as far as snapshots look at an engine."""
    module = torch.nn.Linear(2, 2, bias=False)
    optimizer = torch.optim.AdamW(module.parameters(), lr=1.0)
    module(torch.ones(2)).sum().backward()
    optimizer.step()
    return types.SimpleNamespace(module=module, optimizer=optimizer, device=torch.device("cpu"))


WORK = Work(tokens=3, squares=9, targets=2)
SUMS = Sums(
    loss=1.0,
    passes=2,
    seconds=3.0,
    model_flops=4.0,
    hardware_flops=5.0,
    possible_flops=0.0,
    needed=WORK,
    done=WORK,
    phases={"data": 1.0},
)


def paths(value: object, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Every key in nested mappings, by the keys on the way to it."""
    for key, inner in value.items() if isinstance(value, dict) else ():
        yield (*path, key)
        yield from paths(inner, (*path, key))


def test_a_snapshot_that_lacks_anything_of_what_it_says_about_itself_is_passed_over_with_a_line(tmp_path):
    """As one of another version would; its seal and its files are right."""
    process.ready()
    lines: list[str] = []
    engine = an_engine()
    spec = make_spec("/base", steps=6)
    snapshots = Snapshots(at(tmp_path), of="t", minutes=1.0, say=lines.append)
    snapshots.begin(engine, spec, [EncodedRow(input_ids=(1, 2), labels=(1, 2))], 6)
    record = StepRecord(
        step=1,
        loss=1.0,
        learning_rate=1.0,
        grad_norm=1.0,
        tokens=3,
        target_tokens=2,
        tokens_per_second=1.0,
        mfu=None,
        hfu=None,
        padding=0.0,
        seconds={},
        peak_device_bytes=None,
        peak_host_bytes=None,
    )
    here = Position(step=1, records=[record], sums=SUMS, seconds=1.0, resumed=[])
    assert snapshots.take(here)
    weights = engine.module.weight.detach().clone()
    found = snapshots.resume()
    assert found is not None
    assert (found.sums, list(found.records), lines) == (SUMS, [record], [])
    (place,) = stored.committed(at(tmp_path))
    about = {**stored.read(place).about}
    files = stored.read(place).files
    keys = list(paths(about))
    assert {("optimizer_steps",), ("totals", "needed", "tokens"), ("totals", "loss")} <= set(keys)
    for path in keys:
        if path[:-1] == ("totals", "phases"):
            continue  # a phase that took no time need not be there
        damaged = copy.deepcopy(about)
        inner = damaged
        for key in path[:-1]:
            inner = inner[key]
        del inner[path[-1]]
        stored.commit(place, files, damaged)
        lines.clear()
        assert snapshots.resume() is None, path
        assert len(lines) == 1, path
        assert "is not used: " in lines[0]
        assert "\n" not in lines[0]
    assert torch.equal(engine.module.weight, weights)


def refuse(*_args, **_options) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_an_old_snapshot_that_cannot_be_deleted_is_no_fault_of_the_new_one(tmp_path, monkeypatch):
    lines: list[str] = []
    monkeypatch.setattr(snapshot.stored, "prune", refuse)
    Snapshots(at(tmp_path), of="t", minutes=1.0, say=lines.append)._prune()
    assert lines == [f"old snapshots are still there: No space left on device ({tmp_path})"]


def test_weights_that_have_no_place_are_gathered_all_the_same_since_the_other_ranks_do(tmp_path, monkeypatch):
    gathered: list[object] = []
    monkeypatch.setattr(snapshot, "export", lambda engine, spec, out: gathered.append(out))
    monkeypatch.setattr(snapshot, "from_rank_0", lambda value: value)
    monkeypatch.setattr(LocalFilesystem, "folder", refuse)
    snapshots = Snapshots(at(tmp_path), of="t", minutes=1.0)
    snapshots.engine = snapshots.spec = None
    snapshots.rank, snapshots.kept_steps = 0, (3,)
    with pytest.raises(InputError, match="after step 3 cannot be kept: No space left"):
        snapshots.keep(3)
    assert gathered == [None]


def test_rows_are_told_apart_by_ids_labels_and_where_a_row_ends():
    def row(ids: list[int], labels: list[int]) -> EncodedRow:
        return EncodedRow(input_ids=tuple(ids), labels=tuple(labels))

    same = [row([1, 2], [-100, 2]), row([3], [3])]
    others = [
        [row([1, 2], [1, 2]), row([3], [3])],
        [row([1, 2, 3], [-100, 2, 3])],
        [row([3], [3]), row([1, 2], [-100, 2])],
    ]
    assert len({encoded_hash(rows) for rows in (same, *others)}) == 4
    assert encoded_hash(list(same)) == encoded_hash(same)


def test_a_file_written_tensor_by_tensor_is_one_of_safetensors(tmp_path):
    tensors = {
        "weights": torch.arange(6.0).view(2, 3).T,
        "none": torch.empty(0),
        "low": torch.ones(3, dtype=torch.bfloat16),
        "random": torch.get_rng_state(),
    }
    entries = [
        tensor_file.Entry(name=name, shape=tuple(tensor.shape), dtype=tensor.dtype, get=lambda tensor=tensor: tensor)
        for name, tensor in tensors.items()
    ]
    size, sha256 = tensor_file.write(tmp_path / "a.safetensors", entries)
    data = (tmp_path / "a.safetensors").read_bytes()
    assert (size, sha256) == (len(data), hashlib.sha256(data).hexdigest())
    found = load_file(tmp_path / "a.safetensors")
    assert found.keys() == tensors.keys()
    assert all(
        torch.equal(found[name], tensor) and found[name].dtype == tensor.dtype for name, tensor in tensors.items()
    )


def test_a_tensor_that_is_not_what_its_entry_says_is_refused(tmp_path):
    entry = tensor_file.Entry(name="a", shape=(2,), dtype=torch.float32, get=lambda: torch.zeros(3))
    with pytest.raises(ValueError, match=r"a is \(3,\) of torch.float32, not \(2,\)"):
        tensor_file.write(tmp_path / "a.safetensors", [entry])


@pytest.mark.parametrize(
    ("given", "steps", "expected"),
    [
        ((1, 2, "..."), 66, (1, 2, 4, 8, 16, 32, 64)),
        ((1, 2, "..."), 64, (1, 2, 4, 8, 16, 32)),
        ((5, 10, 30, "..."), 100, (5, 10, 30, 90)),
        ((2, 3, "..."), 12, (2, 3, 4, 7, 10)),
        ((0.25, 0.5), 66, (16, 33)),
        ((0.001, 0.99999), 66, (1,)),
        ((7, 3, 500), 66, (3, 7)),
        ((), 66, ()),
    ],
)
def test_the_steps_of_checkpoints(given, steps, expected):
    """2, 3, ... has the ratio 1.5: 4.5, 6.75, 10.1, which are rounded as Python does."""
    assert TrialResources(checkpoints=given).checkpoint_steps(steps) == expected


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ((0,), "0 is neither a step from 1 on nor a fraction"),
        ((1.5,), "1.5 is neither"),
        (("...",), "stands at the end, behind two steps"),
        ((1, "...", 2), "stands at the end, behind two steps"),
        ((0.1, 0.2, "..."), "stands at the end, behind two steps"),
        ((4, 2, "..."), "2 is not above 4"),
    ],
)
def test_checkpoints_that_say_nothing_are_refused(given, message):
    with pytest.raises(ValueError, match=message):
        TrialResources(checkpoints=given)
