"""pcam_tf: honest detection of breast-cancer metastasis in histopathology patches."""

import os

# TensorFlow otherwise greets every process on a machine without a GPU with CUDA errors.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
