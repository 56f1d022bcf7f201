"""A ROS 2 node: chirp, listen, and publish what was heard as Image, PointCloud2 and LaserScan.

    source /opt/ros/jazzy/setup.bash                   # rclpy comes with ROS 2, and not with pip
    python examples/ros2_node.py small                 # a loudspeaker and two microphones
    python examples/ros2_node.py small --simulate      # a walk through a simulated room

`echo/depth` is 32FC1 in metres, `echo/points` and `echo/scan` are in the frame `echo_camera`: x forward, y left, z up
(REP 103). A recording that is not to be trusted is not published; the node's log says why.
"""

from __future__ import annotations

import argparse
import sys
from array import array
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from live_echo import Robot, SoundCard, Walk

import base_residual as br
from base_residual.acoustics.chirp import SAMPLE_RATE
from base_residual.acoustics.framing import echo_frames
from base_residual.camera import Scan
from base_residual.errors import BaseResidualError
from base_residual.machine import few_threads
from base_residual.models.decomposition import require_camera

try:
    import rclpy
    from rclpy.executors import ExternalShutdownException
    from rclpy.node import Node
    from rclpy.utilities import remove_ros_args
    from sensor_msgs.msg import Image, LaserScan, PointCloud2, PointField
    from std_msgs.msg import Header
except ImportError as error:
    print(f"Error: ROS 2 is not there ({error}). Source its setup file, and use its Python.", file=sys.stderr)
    sys.exit(2)

FRAME = "echo_camera"


def image_message(header: Header, depth: np.ndarray) -> Image:
    """A depth map (S, S) in metres."""
    rows, columns = depth.shape
    return Image(
        header=header,
        height=rows,
        width=columns,
        encoding="32FC1",
        is_bigendian=0,
        step=4 * columns,
        data=array("B", depth.astype("<f4").tobytes()),
    )


def cloud_message(header: Header, points: np.ndarray) -> PointCloud2:
    """Points (S, S, 3) in metres, one for each pixel."""
    rows, columns, _ = points.shape
    fields = [
        PointField(name=name, offset=4 * place, datatype=PointField.FLOAT32, count=1)
        for place, name in enumerate("xyz")
    ]
    return PointCloud2(
        header=header,
        height=rows,
        width=columns,
        fields=fields,
        is_bigendian=False,
        point_step=12,
        row_step=12 * columns,
        data=array("B", points.astype("<f4").tobytes()),
        is_dense=True,
    )


def scan_message(header: Header, scan: Scan, farthest: float, period: float) -> LaserScan:
    """A planar scan; infinite where nothing is (REP 117)."""
    return LaserScan(
        header=header,
        angle_min=scan.angle_min,
        angle_max=scan.angle_max,
        angle_increment=scan.angle_increment,
        time_increment=0.0,
        scan_time=period,
        range_min=0.0,
        range_max=farthest,
        ranges=array("f", scan.ranges.tolist()),
        intensities=array("f"),
    )


class EchoNode(Node):
    """Publishes depth, points and a scan of every chirp.

    Args:
        model: a trained network.
        robot: chirps and listens.
        period: seconds between two chirps.
    """

    def __init__(self, model: br.BaseResidualNet, robot: Robot, period: float) -> None:
        super().__init__("echo_depth")
        self.model, self.robot, self.period = model, robot, period
        self.camera = require_camera(model.camera)
        self.farthest = self.camera.farthest(model.max_depth)
        kinds: dict[str, Any] = {"depth": Image, "points": PointCloud2, "scan": LaserScan}
        self.topics = {name: self.create_publisher(kind, f"echo/{name}", 10) for name, kind in kinds.items()}
        self.timer = self.create_timer(period, self.round)

    def round(self) -> None:
        """Chirp, listen, predict and publish."""
        header = Header(stamp=self.get_clock().now().to_msg(), frame_id=FRAME)
        examined = self.model.examine(self.robot.listen().waveform, SAMPLE_RATE)
        if examined.doubts[0]:
            self.get_logger().warning(
                f"Nothing is published, because the recording {', and '.join(examined.doubts[0])}."
            )
            return
        depth = self.model.predict_examined(examined.waveform).final[0, 0].cpu()  # (S, S)
        scan = self.camera.scan(depth)
        self.topics["depth"].publish(image_message(header, depth.numpy()))
        self.topics["points"].publish(cloud_message(header, self.camera.points(depth).numpy()))
        self.topics["scan"].publish(scan_message(header, scan, self.farthest, self.period))


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="trained model, .safetensors, or a released model's name")
    parser.add_argument("--simulate", action="store_true", help="walk through a simulated room, without hardware")
    parser.add_argument("--period", type=float, default=0.5, help="seconds between two chirps (0.5)")
    parser.add_argument("--volume", type=float, default=0.5, help="of the chirp, at most 1 (0.5)")
    parser.add_argument("--seed", type=int, default=0, help="of the simulated room (0)")
    options = parser.parse_args(remove_ros_args(sys.argv if argv is None else ["", *argv])[1:])
    if options.seed < 0 or not (0 < options.period < 1e6 and 0 < options.volume <= 1):
        parser.error("expected are a period above 0, a seed of at least 0, and a volume above 0 that is at most 1")
    torch.set_num_threads(few_threads())
    rclpy.init()
    try:
        model = br.load_model(options.model)
        seconds = echo_frames(model.max_depth) / SAMPLE_RATE
        robot = Walk(seconds, model, options.seed) if options.simulate else SoundCard(seconds, options.volume)
        rclpy.spin(EchoNode(model, robot, options.period))
    except BaseResidualError as error:
        print(f"Error: {error}", file=sys.stderr)
        sys.exit(2)
    except (KeyboardInterrupt, ExternalShutdownException):
        print("Stopped.")
    finally:
        rclpy.try_shutdown()


if __name__ == "__main__":
    main()
