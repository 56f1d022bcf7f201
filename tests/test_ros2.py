"""The ROS 2 node against a stand-in for rclpy, and its messages against the definitions of ROS 2 Jazzy."""

from __future__ import annotations

import runpy
import sys
from array import array
from collections.abc import Callable
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from rosbags.typesys import Stores, get_typestore

from base_residual.acoustics.chirp import SAMPLE_RATE
from base_residual.models.factory import load_model
from base_residual.models.released import DEFAULT

EXAMPLES = Path(__file__).parents[1] / "examples"
STORE = get_typestore(Stores.ROS2_JAZZY)
TIME = STORE.types["builtin_interfaces/msg/Time"]
Published = list[tuple[str, Any]]


class ShutdownError(Exception):
    """What spinning raises when the system ends the node."""


def without_ros(arguments: list[str]) -> list[str]:
    return arguments[: arguments.index("--ros-args")] if "--ros-args" in arguments else arguments


class StandIn:
    """What the node asks of rclpy's Node; remembers what is published and logged."""

    published: ClassVar[Published] = []
    logged: ClassVar[list[str]] = []

    def __init__(self, name: str) -> None:
        self.name = name

    def create_publisher(self, kind: type, topic: str, depth: int) -> SimpleNamespace:
        def publish(message: Any) -> None:
            assert isinstance(message, kind)
            self.published.append((topic, message))

        return SimpleNamespace(publish=publish)

    def create_timer(self, period: float, callback: Callable[[], None]) -> SimpleNamespace:
        return SimpleNamespace(period=period, callback=callback)

    def get_clock(self) -> SimpleNamespace:
        return SimpleNamespace(now=lambda: SimpleNamespace(to_msg=lambda: TIME(sec=5, nanosec=7)))

    def get_logger(self) -> SimpleNamespace:
        return SimpleNamespace(warning=self.logged.append)


@pytest.fixture
def ros(monkeypatch: pytest.MonkeyPatch) -> type[StandIn]:
    """Modules by the names of ROS 2, with the messages that it defines. Spinning is three rounds and an end."""

    def spin(node: Any) -> None:
        for _ in range(3):
            node.timer.callback()
        raise ShutdownError

    modules: dict[str, dict[str, object]] = {
        "rclpy": {"init": lambda: None, "spin": spin, "try_shutdown": lambda: None},
        "rclpy.executors": {"ExternalShutdownException": ShutdownError},
        "rclpy.node": {"Node": StandIn},
        "rclpy.utilities": {"remove_ros_args": without_ros},
        "sensor_msgs": {},
        "sensor_msgs.msg": {
            name: STORE.types[f"sensor_msgs/msg/{name}"] for name in ("Image", "LaserScan", "PointCloud2", "PointField")
        },
        "std_msgs": {},
        "std_msgs.msg": {"Header": STORE.types["std_msgs/msg/Header"]},
    }
    for name, content in modules.items():
        module = ModuleType(name)
        module.__dict__.update(content)
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.syspath_prepend(EXAMPLES)
    monkeypatch.delitem(sys.modules, "live_echo", raising=False)
    monkeypatch.setattr(torch, "set_num_threads", lambda count: None)
    StandIn.published, StandIn.logged = [], []
    return StandIn


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> dict[str, Any]:
    monkeypatch.setattr(sys, "argv", ["ros2_node.py", *arguments])
    return runpy.run_path(str(EXAMPLES / "ros2_node.py"), run_name="__main__")


def on_the_wire(message: Any) -> bytes:
    """The bytes of a message, little-endian CDR."""

    def of_numpy(value: Any) -> Any:
        if isinstance(value, array):
            return np.frombuffer(value, np.dtype(value.typecode)) if len(value) else np.zeros(0, value.typecode)
        if isinstance(value, list):
            return [of_numpy(part) for part in value]
        if is_dataclass(value) and not isinstance(value, type):
            return replace(
                value, **{part.name: of_numpy(getattr(value, part.name)) for part in fields(value) if part.init}
            )
        return value

    return bytes(STORE.serialize_cdr(of_numpy(message), message.__msgtype__))


def test_every_round_is_published_by_the_published_definitions(
    ros: type[StandIn], monkeypatch: pytest.MonkeyPatch
) -> None:
    run(monkeypatch, DEFAULT, "--simulate", "--period", "0.25", "--ros-args", "-r", "echo/scan:=scan")
    assert not ros.logged
    assert [topic for topic, _ in ros.published] == ["echo/depth", "echo/points", "echo/scan"] * 3
    model = load_model(DEFAULT)
    side, camera = model.output_size, model.camera
    assert camera is not None
    for start in (0, 3, 6):
        image, cloud, scan = (
            STORE.deserialize_cdr(on_the_wire(message), message.__msgtype__)
            for _, message in ros.published[start : start + 3]
        )
        for message in (image, cloud, scan):
            assert (message.header.stamp.sec, message.header.stamp.nanosec) == (5, 7)
            assert message.header.frame_id == "echo_camera"
        assert (image.height, image.width, image.encoding, image.is_bigendian) == (side, side, "32FC1", 0)
        assert image.step == 4 * side
        depth = image.data.view("<f4").reshape(side, side)
        assert depth.min() > 0
        assert depth.max() <= model.max_depth
        assert [(field.name, field.offset, field.datatype, field.count) for field in cloud.fields] == [
            ("x", 0, 7, 1),
            ("y", 4, 7, 1),
            ("z", 8, 7, 1),
        ]
        assert (cloud.height, cloud.width, cloud.point_step, cloud.row_step) == (side, side, 12, 12 * side)
        assert cloud.is_dense
        assert not cloud.is_bigendian
        points = cloud.data.view("<f4").reshape(side, side, 3)
        np.testing.assert_allclose(points, camera.points(torch.from_numpy(depth.copy())), rtol=1e-6)
        expected = camera.scan(torch.from_numpy(depth.copy()))
        np.testing.assert_allclose(scan.ranges, expected.ranges)
        assert len(scan.intensities) == 0
        assert (scan.range_min, scan.scan_time) == (0.0, 0.25)
        assert scan.range_max == pytest.approx(model.max_depth * 2**0.5, rel=1e-6)  # in the corners of 90 degrees
        assert scan.angle_min + scan.angle_increment * (side - 1) == pytest.approx(scan.angle_max, rel=1e-5)


def test_what_is_not_to_be_trusted_is_logged_and_not_published(
    ros: type[StandIn], monkeypatch: pytest.MonkeyPatch
) -> None:
    node_class = run(monkeypatch, DEFAULT, "--simulate")["EchoNode"]
    ros.published.clear()
    noise = np.random.default_rng(0).standard_normal((2, SAMPLE_RATE // 5)).astype(np.float32) * 0.1
    robot = SimpleNamespace(listen=lambda: SimpleNamespace(waveform=noise))
    node_class(load_model(DEFAULT), robot, 0.5).round()
    assert not ros.published
    (said,) = ros.logged
    assert said.startswith("Nothing is published, because the recording ")


def test_a_machine_without_ros_is_told_in_one_sentence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(EXAMPLES)
    monkeypatch.setitem(sys.modules, "rclpy", None)
    with pytest.raises(SystemExit) as ended:
        run(monkeypatch, DEFAULT)
    assert ended.value.code == 2
    assert capsys.readouterr().err.startswith("Error: ROS 2 is not there (")
