"""How fast each engine runs the shipped model, and how much its probabilities differ from Keras.

    python -m benchmarks.prediction_speed --data-dir DIR [--repetitions 7] [--output speed.json]

One run. Every repetition times every row once, in a new random order, so that other load on the
machine affects all rows alike. A row's ratio is the median of its ratios to `model.predict` in the
same repetition. Exports are calibrated on training patches and compared with Keras on validation.
Engines that are not installed are skipped and named. This project needs LiteRT only.

    python -m pip install onnxruntime onnx tf2onnx openvino nncf
"""

import pcam_tf  # noqa: F401, I001  (first: it sets what TensorFlow reads when it is imported)

import argparse
import importlib.metadata
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import keras
import numpy as np
import sklearn.metrics
import tensorflow as tf
import threadpoolctl
from PIL import Image

import benchmarks.rows
from pcam_tf import data, prediction
from pcam_tf.evaluation import reports
from pcam_tf.models import classifier, engines
from pcam_tf.files import check_outputs, write_json

BATCHES = (1, 8, 32, 128)
CALIBRATION = 256  # training patches
MATMUL = 2048  # rows and columns
BASELINE = ("model.predict", "float32", "all", 32)
PACKAGES = ("tensorflow", "keras", "ai-edge-litert", "onnxruntime", "openvino", "nncf", "numpy")


class Row(NamedTuple):
    """What is timed."""

    patches: int
    predict: Callable[[np.ndarray], np.ndarray]  # of float32 patches
    threads: int


def main() -> None:
    """Print tables and write everything measured."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-dir", help="of real patches; default: PCAM_TF_DATA_DIR")
    parser.add_argument("--repetitions", type=int, default=7)
    parser.add_argument("--output", type=Path, default=Path("speed.json"))
    arguments = parser.parse_args()
    check_outputs([arguments.output])
    cores = len(os.sched_getaffinity(0))
    source = data.open_source(data.chosen_dir(arguments.data_dir))
    calibration = data.read_patches(source, f"train[:{CALIBRATION}]")["image"].astype("float32")
    validation = data.read_patches(source, "validation")
    loads = [os.getloadavg()]
    with tempfile.TemporaryDirectory() as folder:
        model = classifier.load()
        makers, skipped = exported(model, calibration, Path(folder))
        rows = keras_rows(model, cores)
        for (name, precision), make in makers.items():
            for threads in sorted({1, cores}):
                for batch in BATCHES:
                    rows[name, precision, threads, batch] = Row(
                        min(8 * batch, 128), make(threads, batch), threads
                    )
        agreement = differences(model, makers, validation, cores)
        times = interleaved(rows, validation["image"], arguments.repetitions)
        loads.append(os.getloadavg())
        seconds = end_to_end(validation["image"][:64], Path(folder), arguments.repetitions)
    found = {
        "machine": machine(),
        "packages": {name: version(name) for name in PACKAGES},
        "load_average": {"begin": loads[0], "end": loads[1]},
        "repetitions": arguments.repetitions,
        "flop_a_patch": flop(model),
        "speed": speeds(rows, times, flop(model)),
        # The limit: what these cores do where nothing else is in the way.
        "matrix_product_gflop_a_second": {
            threads: spread(2 * MATMUL**3 / 1e9 / np.array(times[threads])[:, 0])
            for threads in sorted({1, cores})
        },
        "agreement": agreement,
        "end_to_end_seconds": {name: spread(values) for name, values in seconds.items()},
        "skipped": skipped,
    }
    write_json(arguments.output, found)
    print_tables(found)


def machine():
    """Return the machine in words."""
    return f"{processor()}, {len(os.sched_getaffinity(0))} cores"


def rows(builder, size):
    """Return rows of the benchmarks' table, see `benchmarks.rows.row`; Keras is the baseline.

    Raises:
        RuntimeError: the engine's probabilities are not those of Keras.
    """
    smoke = size == "smoke"
    repetitions, cores = (1, 2) if smoke else (7, len(os.sched_getaffinity(0)))
    model, engine = classifier.load(), engines.load(engine="litert")
    validation = data.read_patches(builder, "validation[:64]" if smoke else "validation")
    strays = differences(model, {}, validation, cores)["pcam_tf.models.engines float32"]
    if strays["largest_difference"] > engines.TOLERANCE:
        raise RuntimeError(f"LiteRT strays by {strays['largest_difference']} from Keras")
    patches = validation["image"][:512].astype("float32")
    frozen = keras_rows(model, cores)["tf.function, frozen graph", "float32", "all", 32]

    def per_second(predict, count):
        begun = time.perf_counter()
        predict(patches[:count])
        return min(count, len(patches)) / (time.perf_counter() - begun)

    def whole(patches):
        return model.predict(patches, verbose=0)

    def matrices():
        side = np.random.default_rng(0).random((MATMUL, MATMUL), "float32")
        begun = time.perf_counter()
        side @ side
        return 2 * MATMUL**3 / (time.perf_counter() - begun) / flop(model)

    for predict in (whole, engine.predict_on_batch):
        predict(patches[:64])
        predict(patches[:1])
    found = benchmarks.rows.interleaved(
        {
            "ours": lambda: per_second(engine.predict_on_batch, 512),
            "model.predict": lambda: per_second(whole, 512),
            "frozen graph": lambda: per_second(lambda _: frozen.predict(patches[:128]), 128),
            "limit": matrices,
            "ours, one": lambda: per_second(each(engine.predict_on_batch, 1), 8),
            "model.predict, one": lambda: per_second(each(whole, 1), 8),
        },
        repetitions,
    )
    with tempfile.TemporaryDirectory() as folder:
        seconds = end_to_end(validation["image"][:64], Path(folder), repetitions)
    row = benchmarks.rows.row
    one, eight = (seconds[f"64 pictures, {views}"] for views in ("one view", "eight views"))
    views = [b / a for a, b in zip(one, eight, strict=True)]
    return [
        row(
            "prediction; baseline: model.predict",
            "patches/s",
            found["ours"],
            found["model.predict"],
            limit=found["limit"],
        ),
        row(
            "prediction; baseline: TensorFlow's frozen graph",
            "patches/s",
            found["ours"],
            found["frozen graph"],
        ),
        row(
            "prediction of one patch; baseline: model.predict",
            "patches/s",
            found["ours, one"],
            found["model.predict, one"],
        ),
        row(
            "predict --images, one picture; baseline: TensorFlow",
            "s",
            seconds["command, one picture, litert"],
            seconds["command, one picture, tensorflow"],
            lower_is_better=True,
        ),
        row("cost of eight views, in single views", "times", views),
        row("largest difference of a probability from Keras", "", [strays["largest_difference"]]),
    ]


def keras_rows(model, cores):
    """Return the rows of TensorFlow, and of our engine, which decides on threads itself."""
    signature = tf.TensorSpec((None, *model.input_shape[1:]), "float32")
    concrete = tf.function(lambda patches: model(patches, training=False), [signature])
    # Variables become constants, and BatchNormalization a part of the convolutions.
    from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

    frozen = convert_variables_to_constants_v2(concrete.get_concrete_function())

    def whole(patches):
        return model.predict(patches, verbose=0)

    rows = {
        BASELINE: Row(512, whole, cores),
        ("model.predict", "float32", "all", 1): Row(8, each(whole, 1), cores),
        ("predict_on_batch", "float32", "all", 128): Row(128, model.predict_on_batch, cores),
    }
    for batch in BATCHES:
        rows["tf.function, frozen graph", "float32", "all", batch] = Row(
            min(8 * batch, 128),
            each(lambda patches: frozen(tf.constant(patches))[0].numpy(), batch),
            cores,
        )
    engine = engines.load(engine="litert")
    for batch in BATCHES:
        rows["pcam_tf.models.engines", "float32", "all", batch] = Row(
            min(8 * batch, 128), each(engine.predict_on_batch, batch), cores
        )
    return rows


def each(predict, batch):
    """Return `predict` called on one batch after the other."""

    def run(patches):
        return np.concatenate(
            [predict(patches[first : first + batch]) for first in range(0, len(patches), batch)]
        )

    return run


def exported(model, calibration, folder):
    """Export to every engine and precision.

    Returns:
        What makes a predicting function from threads and batch, by name and precision; and why an
        engine is missing, by its name and precision.
    """
    makers, skipped = {}, {}
    for name, export in (("LiteRT", litert), ("ONNX Runtime", onnx), ("OpenVINO", openvino)):
        for precision in ("float32", "int8"):
            try:
                int8 = calibration if precision == "int8" else None
                makers[name, precision] = export(model, int8, folder)
                makers[name, precision](1, 8)(calibration[:8])
            except Exception as error:  # each exporter and runtime has errors of its own
                makers.pop((name, precision), None)
                reason = (str(error).strip() or "no reason given").splitlines()[0]
                skipped[f"{name} {precision}"] = f"{type(error).__name__}: {reason}"
    return makers, skipped


def litert(model, calibration, folder):
    """Export to LiteRT, int8 if there are patches to calibrate with."""
    from ai_edge_litert.interpreter import Interpreter

    words = {}
    if calibration is not None:
        words["optimizations"] = [tf.lite.Optimize.DEFAULT]
        words["representative_dataset"] = lambda: ([patch[None]] for patch in calibration)
    file = folder / "model.tflite"
    model.export(str(file), format="litert", verbose=False, **words)
    content = file.read_bytes()

    def make(threads, batch):
        interpreter = Interpreter(model_content=content, num_threads=threads)
        put, got = interpreter.get_input_details()[0], interpreter.get_output_details()[0]
        interpreter.resize_tensor_input(put["index"], (batch, *put["shape"][1:]))
        interpreter.allocate_tensors()

        def predict(patches):
            interpreter.set_tensor(put["index"], patches)
            interpreter.invoke()
            return interpreter.get_tensor(got["index"])

        return each(predict, batch)

    return make


def onnx(model, calibration, folder):
    """Export to ONNX Runtime, int8 if there are patches to calibrate with."""
    import onnxruntime

    file = folder / "model.onnx"
    model.export(str(file), format="onnx", verbose=False)
    if calibration is not None:
        from onnxruntime import quantization

        class Reader(quantization.CalibrationDataReader):
            def __init__(self):
                self.patches = iter(calibration)

            def get_next(self):
                patch = next(self.patches, None)
                return None if patch is None else {model.inputs[0].name: patch[None]}

        plain, file = file, folder / "int8.onnx"
        quantization.quantize_static(
            plain,
            file,
            Reader(),
            per_channel=True,
            # Without VNNI, 8 bits times 8 bits overflow the sums' 16.
            reduce_range=True,
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
        )

    content = file.read_bytes()
    sessions = {}

    def make(threads, batch):
        if threads not in sessions:
            options = onnxruntime.SessionOptions()
            options.intra_op_num_threads = threads
            sessions[threads] = onnxruntime.InferenceSession(
                content, options, providers=["CPUExecutionProvider"]
            )
        name = sessions[threads].get_inputs()[0].name
        return each(lambda patches: sessions[threads].run(None, {name: patches})[0], batch)

    return make


def openvino(model, calibration, folder):
    """Export to OpenVINO, int8 if there are patches to calibrate with."""
    import openvino

    core = openvino.Core()
    model.export(str(folder / "model.xml"), format="openvino", verbose=False)
    graph = core.read_model(folder / "model.xml")
    if calibration is not None:
        import nncf

        patches = nncf.Dataset([patch[None] for patch in calibration])
        graph = nncf.quantize(graph, patches, subset_size=len(calibration))

    def make(threads, batch):
        fixed = graph.clone()
        fixed.reshape([batch, *model.input_shape[1:]])
        settings = {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY"}
        # By default it computes in bfloat16 where the processor can.
        settings["INFERENCE_PRECISION_HINT"] = "f32"
        request = core.compile_model(fixed, "CPU", settings).create_infer_request()
        return each(lambda patches: request.infer([patches])[0].copy(), batch)

    return make


def differences(model, makers, validation, cores):
    """Return how far each export strays from Keras on validation patches, seen once each."""
    patches, labels = validation["image"], validation["label"]
    expected = prediction_of(model.predict_on_batch, patches)
    auc = sklearn.metrics.roc_auc_score(labels, expected)
    predicting = {key: make(cores, 8) for key, make in makers.items()}
    predicting["pcam_tf.models.engines", "float32"] = engines.load(engine="litert").predict_on_batch
    found = {"patches": len(labels), "keras_auc": auc}
    for key, predict in predicting.items():
        got = prediction_of(predict, patches)
        found[" ".join(key)] = {
            "largest_difference": float(np.abs(got - expected).max()),
            "auc_difference": float(sklearn.metrics.roc_auc_score(labels, got) - auc),
        }
    return found


def prediction_of(predict, patches):
    """Return probabilities, (n,), of patches, uint8, whose number is a multiple of 8."""
    batches = (patches[first : first + 128] for first in range(0, len(patches), 128))
    return np.concatenate([predict(batch.astype("float32"))[:, 0] for batch in batches])


def interleaved(rows, patches, repetitions):
    """Return seconds and processor seconds of every repetition, by row, or threads of a product."""
    patches = patches[:512].astype("float32")
    matrix = np.random.default_rng(0).random((MATMUL, MATMUL), "float32")

    def run(key):
        if key in rows:
            rows[key].predict(patches[: rows[key].patches])
        else:
            with threadpoolctl.threadpool_limits(key, "blas"):
                matrix @ matrix

    keys = [*rows, *sorted({row.threads for row in rows.values()})]
    times = {key: [] for key in keys}
    rng = np.random.default_rng(0)
    for repetition in range(-1, repetitions):  # the first is not counted
        for key in (keys[index] for index in rng.permutation(len(keys))):
            wall, busy = time.perf_counter(), time.process_time()
            run(key)
            if repetition >= 0:
                times[key].append((time.perf_counter() - wall, time.process_time() - busy))
        print(f"repetition {repetition + 1} of {repetitions}", file=sys.stderr, flush=True)
    return times


def spread(values):
    """Return median, least and most."""
    return [float(each) for each in (np.median(values), np.min(values), np.max(values))]


def speeds(rows, times, flop_a_patch):
    """Return what the times of each row mean."""
    # Seconds and processor seconds a patch of each repetition.
    each_patch = {key: np.array(times[key]) / row.patches for key, row in rows.items()}
    found = []
    for key, row in rows.items():
        wall, busy = each_patch[key].T
        limit = np.array(times[row.threads])[:, 0] / (2 * MATMUL**3)  # seconds an operation
        found.append(
            {
                "engine": key[0],
                "precision": key[1],
                "threads": key[2],
                "batch": key[3],
                "patches_a_second": spread(1 / wall),
                "ms_a_batch": spread(1e3 * wall * key[3]),
                "processor_ms_a_patch": float(np.median(busy) * 1e3),
                "times_model_predict": float(np.median(each_patch[BASELINE][:, 0] / wall)),
                "gflop_a_second": float(flop_a_patch / np.median(wall) / 1e9),
                "share_of_limit": float(np.median(flop_a_patch * limit / wall)),
            }
        )
    return found


def end_to_end(patches, folder, repetitions):
    """Return seconds of the command line and of eight views, from picture files to a table.

    One figure a repetition.
    """
    for number, patch in enumerate(patches):
        Image.fromarray(patch).save(folder / f"{number}.png")
    files = [folder / f"{number}.png" for number in range(len(patches))]
    engine = engines.load(engine="litert")

    def command(name):
        words = ["predict", "--engine", name, "--images", str(files[0])]
        words += ["--output", str(folder / "table.csv")]
        subprocess.run([sys.executable, "-m", "pcam_tf", *words], check=True, capture_output=True)

    def views(count, augmented):
        prediction.predict_images(engine, files[:count], test_time_augmentation=augmented)

    timed = {
        "command, one picture, litert": lambda: command("litert"),
        "command, one picture, tensorflow": lambda: command("tensorflow"),
        "1 picture, one view": lambda: views(1, False),
        "1 picture, eight views": lambda: views(1, True),
        "64 pictures, one view": lambda: views(64, False),
        "64 pictures, eight views": lambda: views(64, True),
    }
    seconds = {name: [] for name in timed}
    for _ in range(repetitions):
        for name, run in timed.items():
            begun = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - begun)
    return seconds


def flop(model):
    """Return floating point operations of convolutions and dense layers for a patch."""
    total = 0
    for layer in model.layers:
        if isinstance(layer, keras.layers.Dense):
            total += 2 * np.prod(layer.kernel.shape)
        elif isinstance(layer, (keras.layers.Conv2D, keras.layers.DepthwiseConv2D)):
            total += 2 * np.prod(layer.kernel.shape) * np.prod(layer.output.shape[1:3])
    return int(total)


def processor():
    """Return the processor's name."""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":")[1].strip()
    return platform.processor()


def version(package):
    """Return a package's version, or None."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def print_tables(found):
    """Print what was found as markdown."""
    rows = [
        {
            "engine": row["engine"],
            "precision": row["precision"],
            "threads": str(row["threads"]),
            "batch": str(row["batch"]),
            "× model.predict": f"{row['times_model_predict']:.1f}",
            "patches/s (least–most)": "{:.0f} ({:.0f}–{:.0f})".format(*row["patches_a_second"]),
            "ms a batch": f"{row['ms_a_batch'][0]:.1f}",
            "processor ms a patch": f"{row['processor_ms_a_patch']:.1f}",
            "GFLOP/s": f"{row['gflop_a_second']:.0f}",
            "of the limit": f"{100 * row['share_of_limit']:.0f} %",
        }
        for row in found["speed"]
    ]
    for threads, speed in found["matrix_product_gflop_a_second"].items():
        limit = {"engine": f"{MATMUL}×{MATMUL} matrices", "precision": "float32"}
        limit |= {"threads": str(threads), "GFLOP/s": "{:.0f} ({:.0f}–{:.0f})".format(*speed)}
        rows.append(dict.fromkeys(rows[0], "") | limit | {"of the limit": "100 %"})
    print(reports.markdown_table(rows), end="\n\n")
    strays = [
        {
            "export": name,
            "largest difference": f"{each['largest_difference']:.1e}",
            "AUC": f"{each['auc_difference']:+.5f}",
        }
        for name, each in found["agreement"].items()
        if isinstance(each, dict)
    ]
    print(reports.markdown_table(strays), end="\n\n")
    others = set(found) - {"speed", "matrix_product_gflop_a_second", "agreement"}
    print(json.dumps({key: found[key] for key in found if key in others}, indent=2))


if __name__ == "__main__":
    main()
