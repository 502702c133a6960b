"""After training in a region: the plain program, for export, ONNX and processes that have no `sll`."""

from __future__ import annotations

import subprocess
import sys
import textwrap
import warnings

import pytest
import torch
from torch import nn

import sll
from compatibility import row

AREA = "export and deployment"


class Net(nn.Module):
    """Quantized, with a decision and a lookup; never heard of regions."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(6, 16), nn.Linear(16, 3)
        self.register_buffer("levels", torch.linspace(-1, 1, 5))

    def forward(self, x):
        h = self.first(x)
        h = self.levels[torch.round(h * 2).clamp(-2, 2).long() + 2]
        y = self.last(torch.where(h > 0, h, 0.1 * h))
        return torch.where(y.argmax(1, keepdim=True) == 1, y * 2, y)


def data():
    g = torch.Generator().manual_seed(0)
    return torch.randn(64, 6, generator=g), torch.randint(3, (64,), generator=g)


@pytest.fixture(scope="module")
def trained():
    torch.manual_seed(0)
    net = Net()
    before = [p.clone() for p in net.parameters()]
    x, target = data()
    optimizer = torch.optim.Adam(net.parameters(), 0.01)
    region = sll.linearize("auto")
    for _ in range(20):
        optimizer.zero_grad()
        with region:
            nn.functional.cross_entropy(net(x), target).backward()
        optimizer.step()
    assert all(not torch.equal(p, q) for p, q in zip(before, net.parameters()))
    return net.eval()


def plain(net):
    """The same parameters in a net that never saw a region."""
    fresh = Net()
    fresh.load_state_dict(net.state_dict())
    with torch.no_grad():
        return fresh.eval()(data()[0])


@row(AREA, "`state_dict`: the keys, shapes and types of an untouched model", "works")
def test_state_dict(trained):
    ours, fresh = trained.state_dict(), Net().state_dict()
    assert list(ours) == list(fresh)
    for name in fresh:
        assert type(ours[name]) is type(fresh[name]) and ours[name].dtype == fresh[name].dtype
        assert ours[name].shape == fresh[name].shape and not vars(ours[name])
    assert not trained._forward_hooks and not trained._forward_pre_hooks and type(trained) is Net
    assert not any(vars(p) for p in trained.parameters())


def _operators(graph):
    return {str(node.target) for node in graph.nodes if node.op == "call_function"}


@row(AREA, "`torch.export` after training", "works")
def test_export(trained):
    x, _ = data()
    program, fresh = torch.export.export(trained, (x,)), torch.export.export(Net(), (x,))
    assert [str(n.target) for n in program.graph.nodes] == [str(n.target) for n in fresh.graph.nodes]
    assert torch.equal(program.module()(x), plain(trained))
    assert "sll" not in program.graph_module.code


@row(
    AREA,
    "`torch.export` inside a region",
    "does not work",
    "the graph holds the ramps, which is not the program to deploy: leave the region first. "
    "(Under `torch.no_grad()` it is the plain program.)",
)
def test_export_inside_a_region(trained):
    x, _ = data()
    with sll.linearize(0.1), torch.no_grad():
        program = torch.export.export(trained, (x,))
    assert _operators(program.graph) == _operators(torch.export.export(trained, (x,)).graph)
    assert torch.equal(program.module()(x), plain(trained))
    with sll.linearize(0.1):
        ramps = torch.export.export(trained, (x,))
    assert len(ramps.graph.nodes) > len(program.graph.nodes)  # if this fails, correct the table


@row(AREA, "`torch.jit.trace` after training", "works")
def test_jit_trace(trained):
    x, _ = data()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it is deprecated
        traced, fresh = torch.jit.trace(trained, x), torch.jit.trace(Net().eval(), x)
    kinds = lambda module: [node.kind() for node in module.inlined_graph.nodes()]
    assert kinds(traced) == kinds(fresh)
    assert torch.equal(traced(x), plain(trained))


@row(AREA, "ONNX (`torch.onnx.export(dynamo=True)`) after training", "works")
def test_onnx(trained):
    pytest.importorskip("onnx")
    pytest.importorskip("onnxscript")
    from onnx.reference import ReferenceEvaluator

    x, _ = data()

    def exported(net):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.onnx.export(net, (x,), dynamo=True, verbose=False).model_proto

    model, fresh = exported(trained), exported(Net().eval())
    assert [node.op_type for node in model.graph.node] == [node.op_type for node in fresh.graph.node]
    assert {node.domain for node in model.graph.node} <= {"", "ai.onnx"}
    name = model.graph.input[0].name
    (got,) = ReferenceEvaluator(model).run(None, {name: x.numpy()})
    torch.testing.assert_close(torch.from_numpy(got.copy()), plain(trained), rtol=1e-4, atol=1e-4)


@row(AREA, "a process without `sll` loads and runs a model saved after, or in the middle of, training", "works")
def test_a_process_without_sll(trained, tmp_path):
    x, _ = data()
    torch.save(trained.state_dict(), tmp_path / "state.pt")
    with sll.linearize(0.1):
        mask = trained.first(x) > 0
        torch.save({"state": trained.state_dict(), "mask": mask, "x": x}, tmp_path / "inside.pt")
    torch.export.save(torch.export.export(trained, (x,)), tmp_path / "program.pt2")
    torch.save(plain(trained), tmp_path / "want.pt")
    script = textwrap.dedent(f"""
        import sys
        class Blocked:
            def find_spec(self, name, path=None, target=None):
                if name.split(".")[0] == "sll":
                    raise ImportError("sll is not installed here")
        sys.meta_path.insert(0, Blocked())
        import torch
        folder = {str(tmp_path)!r}
        inside = torch.load(folder + "/inside.pt", weights_only=True)
        state = torch.load(folder + "/state.pt", weights_only=True)
        assert state.keys() == inside["state"].keys()
        assert all(torch.equal(state[name], inside["state"][name]) for name in state)
        program = torch.export.load(folder + "/program.pt2").module()
        assert torch.equal(program(inside["x"]), torch.load(folder + "/want.pt"))
        assert inside["mask"].dtype == torch.bool and "sll" not in sys.modules
    """)
    subprocess.run([sys.executable, "-c", script], check=True, timeout=120)
