"""Export a network to files that run, prove them against PyTorch, read their kernels, and time them."""

from lessen.deploy.clock import FileClock
from lessen.deploy.deployment import Deployed, deploy, deploy_steps
from lessen.deploy.export import export_onnx, export_openvino, export_pt2
from lessen.deploy.kernels import Kernels, read_kernels
from lessen.deploy.planned import Deploy, DeployedFile, StepNetwork
from lessen.deploy.runtimes import OnnxRuntime, OpenVino, Program, Runtime, TorchProgram, installed, trust_pt2
from lessen.deploy.timing import time_files
from lessen.deploy.verify import Verification, Verified, verify

__all__ = [
    "Deploy",
    "Deployed",
    "DeployedFile",
    "FileClock",
    "Kernels",
    "OnnxRuntime",
    "OpenVino",
    "Program",
    "Runtime",
    "StepNetwork",
    "TorchProgram",
    "Verification",
    "Verified",
    "deploy",
    "deploy_steps",
    "export_onnx",
    "export_openvino",
    "export_pt2",
    "installed",
    "read_kernels",
    "time_files",
    "trust_pt2",
    "verify",
]
