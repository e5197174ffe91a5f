"""The values that several options may have; read without pydantic."""

from __future__ import annotations

from typing import Literal

Precision = Literal["no", "bf16", "fp16", "auto"]
Dtype = Literal["float32", "float16", "bfloat16", "int8"]
Launcher = Literal["local", "ray"]
Tracker = Literal["tensorboard", "trackio", "wandb", "mlflow"]
