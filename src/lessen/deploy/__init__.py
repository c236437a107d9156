"""Export a network to files that run, prove them against PyTorch, read their kernels, and time them."""

from lessen.deploy.export import export_onnx, export_openvino, export_pt2
from lessen.deploy.runtimes import OnnxRuntime, OpenVino, Program, Runtime, TorchProgram, installed
from lessen.deploy.timing import FileTiming, time_files
from lessen.deploy.verify import Verification, Verified, verify

__all__ = [
    "FileTiming",
    "OnnxRuntime",
    "OpenVino",
    "Program",
    "Runtime",
    "TorchProgram",
    "Verification",
    "Verified",
    "export_onnx",
    "export_openvino",
    "export_pt2",
    "installed",
    "time_files",
    "verify",
]
