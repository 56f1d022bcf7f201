"""Every setting once: its type, unit, bounds, default and help text."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator
from pydantic.fields import FieldInfo

from base_residual.config.presets import DATASET_WORDS, MAX_RATE, MIN_RATE, MODEL_WORDS, DatasetName, ModelName
from base_residual.config.section import Section

MAX_SIDE = 1024  # pixels
MAX_ROOMS = 1_000_000
MAX_RECORDINGS = 10_000_000  # in all simulated rooms; a machine renders some hundred thousand a day
MAX_SPECTROGRAM = 2**23  # numbers that one echo becomes before it is an image; by default 250,000
MAX_MAPS = 2**26  # numbers in the widest maps of a network, for one echo
NOMINAL_SOUND = 340.0  # m/s; the figure that the field cuts its echoes by, right at 14 degrees Celsius
CROSSOVER = 0.5  # octaves over which a band of `audio.bands` gives way to the next

Angle = Annotated[float, Field(gt=0, lt=180)]  # in degrees
ReconKind = Literal["l1", "rmse"]


class DataConfig(Section):
    """The dataset, its depth maps, and how training varies them."""

    name: DatasetName = Field("simulated", description="Dataset to train and evaluate on.")
    root: Path | None = Field(None, description="Folder of the dataset; else BRDEPTH_DATA, but for simulated rooms.")
    follow_links: bool = Field(
        False, description="Let links in the dataset's folder lead out of it, such as to another disk."
    )
    output_size: int = Field(
        256, ge=16, le=MAX_SIDE, multiple_of=16, description="Side of the square depth map, in pixels."
    )
    max_depth: float = Field(30.0, ge=0.5, le=1000, description="Largest depth, in metres; larger ones are cut to it.")
    field_of_view: tuple[Angle, Angle] | None = Field(
        None,
        description="Angles that a depth map spans across and upward, in degrees: from pixels to points.",
        json_schema_extra={"implied": "by the dataset; not known for recordings of one's own"},
    )
    depth_along: Literal["axis", "ray"] = Field(
        "axis", description="What depth is measured along: the camera's axis (z-depth), or each pixel's ray (range)."
    )
    mirror: bool = Field(
        True,
        description="Mirror half of the training samples: swap the ears, flip the depth.",
        json_schema_extra={"implied": "true; false with model.symmetric=false"},
    )
    noise: float = Field(0.0, ge=0, le=1, description="Largest noise added in training, of the loudest sample.")
    damping: float = Field(
        0.0, ge=0, le=60, description="Largest extra decay of an echo over its length in training, in dB."
    )
    coloration: float = Field(
        0.0,
        ge=0,
        le=2,
        description="Spread of the shares of short copies that ears add in training, as pinnae do, at its largest.",
        json_schema_extra={"implied": "0.5 in rich simulated rooms"},
    )
    stretch: float = Field(
        0.25, ge=0, le=1, description="Largest share by which rooms are made larger in training, and as often smaller."
    )
    prepare: bool = Field(True, description="Keep a memory-mapped copy, made on first use, in the cache.")
    num_workers: int = Field(
        0, ge=0, le=256, description="Processes that read recordings; 0, this one, is the fastest for a prepared set."
    )


class SimulationConfig(Section):
    """The simulated rooms; read when the dataset is `simulated`."""

    train_rooms: int = Field(3500, ge=1, le=MAX_ROOMS, description="Rooms to train on.")
    val_rooms: int = Field(100, ge=1, le=MAX_ROOMS, description="Rooms to validate on, none of them a training room.")
    test_rooms: int = Field(200, ge=1, le=MAX_ROOMS, description="Rooms to test on, seen by nothing before.")
    poses: int = Field(2, ge=1, le=1000, description="Places in each room from which the robot listens.")
    style: Literal["rich", "standard", "hard"] = Field(
        "rich",
        description="Distribution that rooms are drawn from; standard and hard are shoeboxes without reverberation.",
    )
    rig: Literal["varied", "ideal", "batvisionv2", "batvisionv1", "replica"] = Field(
        "varied",
        description="What chirps, listens and sees.",
        json_schema_extra={"implied": "varied; ideal in standard and hard rooms"},
    )
    spread: float = Field(
        1.0, ge=0, le=1, description="How much of what one does not know about the rig varies from pose to pose."
    )
    head: Path | None = Field(
        None, description="SOFA file with a measured head, whose ears the rig gets; else it has its own."
    )
    scene: Path | None = Field(
        None,
        description="Triangle mesh in metres (.glb, .obj, .ply, .stl, .off) in which all rooms are; else drawn ones.",
    )
    up: Literal["auto", "y", "z"] = Field(
        "auto", description="Axis that points up in the scene; auto is y in .glb, z in other files."
    )
    seed: int = Field(0, ge=0, description="Decides every room, pose and noise sample.")

    @property
    def recordings(self) -> int:
        """Return the number of recordings in all rooms."""
        return (self.train_rooms + self.val_rooms + self.test_rooms) * self.poses

    @model_validator(mode="after")
    def _can_be_rendered(self) -> SimulationConfig:
        if self.recordings > MAX_RECORDINGS:
            raise ValueError(
                f"these are {self.recordings:,} recordings, and at most {MAX_RECORDINGS:,} are rendered; make rooms or "
                "poses fewer"
            )
        return self


class AudioConfig(Section):
    """The front end, which makes a network's features of a waveform."""

    front_end: Literal["spectrogram", "mel", "waveform", "matched"] = Field(
        "matched", description="What is made of a waveform before the network sees it."
    )
    emission: Literal["found", "first"] = Field(
        "found",
        description="Where an echo begins: at its direct sound, which is found in each recording; or at the first "
        "sample, for recordings whose direct sound is cut off.",
    )
    template: Literal["chirp", "direct"] = Field(
        "direct",
        description="Emitted sound of the matched front end: as designed, or each recording's direct sound.",
        json_schema_extra={"implied": "direct; chirp with audio.emission=first"},
    )
    bands: tuple[Annotated[float, Field(ge=20)], ...] = Field(
        (300, 2000, 5000, 10_000, 20_000),
        description="Edges in Hz of bands in which the matched front end compares the ears as well; [] for no bands.",
        json_schema_extra={"implied": "300, 2000, 5000, 10000, 20000; [] with another front end"},
    )
    sample_rate: int = Field(
        44_100, ge=MIN_RATE, le=MAX_RATE, description="Rate of the recordings, in Hz; others are resampled."
    )
    n_fft: int = Field(512, ge=16, le=8192, description="Length of the Fourier transform, in samples.")
    win_length: int = Field(64, ge=4, le=8192, description="Length of the window, in samples.")
    hop_length: int = Field(16, ge=1, le=8192, description="Step between windows, in samples.")
    n_mels: int = Field(64, ge=8, le=512, description="Bands of the mel front end.")

    @model_validator(mode="after")
    def _window_and_bands_fit(self) -> AudioConfig:
        if self.win_length > self.n_fft:
            raise ValueError(f"win_length {self.win_length} is longer than n_fft {self.n_fft}; make it at most n_fft")
        if len(self.bands) == 1 or any(high < 2**CROSSOVER * low for low, high in pairwise(self.bands)):
            raise ValueError("bands are two rising edges or more, each half an octave above the one before, or []")
        if self.bands and self.bands[0] >= self.sample_rate / 2:
            raise ValueError(f"bands begin at {self.bands[0]:g} Hz, which recordings of {self.sample_rate} Hz lack")
        return self


class ModelConfig(Section):
    """The network: one encoder, and a decoder for each part of the prediction."""

    name: ModelName = Field("base_residual", description="The decomposition, or a plain baseline.")
    encoder: Literal["time", "unet"] = Field(
        "time", description="time: 1-D over the echo; unet: 2-D over a spectrogram."
    )
    decoder: Literal["lookup", "map", "unet"] = Field(
        "map",
        description="Decoder at full resolution: of the residual, or of a baseline; lookup: listens where the base is.",
        json_schema_extra={"implied": "lookup; map for a baseline"},
    )
    base_decoder: Literal["grid", "map", "unet"] = Field("grid", description="Decoder of the base; grid: a coarse one.")
    base_grid: int = Field(4, ge=2, le=64, description="Control points per side of the grid decoder.")
    base_channels: int = Field(
        16, ge=4, le=512, description="What all widths are multiples of: a U-Net's first stage has as many channels."
    )
    symmetric: bool = Field(
        True,
        description="The time encoder takes the ears to be alike, and the camera to be between them: swapping them "
        "flips the map, exactly.",
    )
    bilinear: bool = Field(True, description="Enlarge by interpolation (true) or by transposed convolutions.")
    residual_bound: float = Field(0.2, gt=0, le=1, description="Largest residual, as a share of max_depth.")


class LossConfig(Section):
    """The three terms that hold the parts apart, and how their weights change over the epochs."""

    recon: ReconKind = Field("l1", description="Reconstruction: mean |final - gt|, or each image's rmse.")
    lambda_recon: float = Field(1.0, ge=0, description="Weight of the reconstruction.")
    lambda_base: float = Field(
        0.2,
        ge=0,
        description="Weight of mean |base - layout|.",
        json_schema_extra={"implied": "0.2; 1 in simulated rooms, whose layout is known"},
    )
    lambda_sparse: float = Field(0.02, ge=0, description="Weight of mean |residual|.")
    layout: Literal["empty_room", "lowpass"] = Field(
        "empty_room",
        description="The base's target. empty_room: the view without furniture where it is known, as in simulated "
        "rooms; nothing else then moves the base. lowpass: a low-pass of the depth, as for all other data.",
    )
    lowpass_share: float | None = Field(
        None,
        ge=0,
        le=1,
        exclude=True,  # what acts, and is written, is the kernel that it comes to
        description="Side of the low-pass box as a share of the map's side, 0 to 1; in place of lowpass_kernel.",
        json_schema_extra={"implied": "1/16"},
    )
    lowpass_kernel: int = Field(
        16,
        ge=1,
        le=512,
        description="Side of the low-pass box, in pixels.",
        json_schema_extra={"implied": "1/16 of the map's side"},
    )
    adaptive: bool = Field(
        False, description="Weights that change after the warm-up, in proportion to the lambdas; with the curriculum."
    )
    warmup_epochs: int = Field(20, ge=0, description="Epochs before the adaptive weights and the curriculum change.")
    curriculum: bool = Field(False, description="After the warm-up, keep the reconstruction from moving the base.")


class TrainerConfig(Section):
    """The optimisation."""

    epochs: int = Field(50, ge=1, description="Passes over the training set.")
    batch_size: int = Field(64, ge=1, description="Recordings per step, over all processes.")
    learning_rate: float = Field(0.001, gt=0, le=1, description="Peak learning rate.")
    lr_schedule: Literal["one_cycle", "constant"] = Field(
        "one_cycle", description="one_cycle: rise, then fall by a cosine."
    )
    optimizer: Literal["Muon", "AdamW", "Adam"] = Field(
        "AdamW", description="Optimiser; Muon moves kernels and AdamW the rest."
    )
    weight_decay: float = Field(0.01, ge=0, description="Weight decay of the optimiser.")
    average: float = Field(
        0.5, ge=0, le=1000, description="Epochs over which weights are averaged for validation and saving; 0: none."
    )
    accumulate: int = Field(1, ge=1, description="Parts of a batch that go through the network one after the other.")
    recompute: bool = Field(
        False, description="Compute activations twice instead of keeping them: less memory, more time."
    )
    compile: bool = Field(False, description="Compile the network with torch.compile: slow to begin, faster after.")
    grad_clip: float = Field(1.0, gt=0, description="Largest norm of the gradient.")
    device: str = Field("auto", pattern=r"^(auto|cpu|mps|cuda(:\d+)?)$", description="auto, cpu, mps, cuda or cuda:N.")
    threads: int | None = Field(
        None,
        ge=1,
        le=1024,
        description="Threads of each process on the CPU; give fewer on a machine that others use.",
        json_schema_extra={"implied": "as many as cores"},
    )
    precision: Literal["auto", "fp32", "bf16"] = Field(
        "auto", description="auto: bf16 where the device computes it natively."
    )
    seed: int = Field(0, ge=0, description="Same seed, same machine, same numbers, on a CPU.")
    save_every: float = Field(
        1.0, ge=0, description="Minutes between saved training states: the steps that a killed process loses at most."
    )
    on_fault: Literal["stop", "skip"] = Field(
        "stop", description="What a loss or gradient that is not finite does: end the run, or leave that step out."
    )
    picture_every: int = Field(
        10, ge=1, description="Epochs between decomposition pictures; the first and the last have one in any case."
    )


class TrackingConfig(Section):
    """The run's folder, and services that follow the run."""

    experiment_name: str = Field(
        "default",
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$",
        description="Last part of the run folder's name: letters, digits, '.', '_' and '-'.",
    )
    results_dir: Path = Field(Path("results"), description="Folder that holds the runs.")
    wandb: bool = Field(False, description="Log to Weights & Biases, too.")
    wandb_project: str = Field("base-residual-depth", min_length=1, description="Project at Weights & Biases.")
    tensorboard: bool = Field(False, description="Log to TensorBoard, too.")


class Config(Section):
    """All settings of a run; `make_config` makes it from what was given and fills in what that implies."""

    # Made when asked for: the first section that is made builds its class's validator, which takes a while.
    data: DataConfig = Field(default_factory=DataConfig)
    simulation: SimulationConfig = Field(default_factory=SimulationConfig)
    audio: AudioConfig = Field(default_factory=AudioConfig)
    model: ModelConfig = Field(default_factory=ModelConfig)
    loss: LossConfig = Field(default_factory=LossConfig)
    trainer: TrainerConfig = Field(default_factory=TrainerConfig)
    tracking: TrackingConfig = Field(default_factory=TrackingConfig)

    @model_validator(mode="after")
    def _parts_fit(self) -> Config:
        if self.trainer.compile and self.trainer.recompute:
            raise ValueError("trainer.compile and trainer.recompute exclude each other")
        splits = self.model.name == "base_residual"
        if self.model.decoder == "lookup" and not splits:
            raise ValueError("a lookup decoder listens where the base lies, and a baseline has none; use map or unet")
        if self.data.stretch and self.audio.front_end == "waveform":
            raise ValueError("data.stretch would change the pitch of the front end 'waveform'; use data.stretch=0")
        flat = self.audio.front_end in ("waveform", "matched")
        own = {"decoder": "lookup", "base_decoder": "grid"} if splits else {"decoder": "map"}
        fitting = {"encoder": "time"} | own
        wrong = [name for name in fitting if (getattr(self.model, name) == "unet") == flat]
        if wrong:
            needed = " and ".join(f"model.{name}={fitting[name] if flat else 'unet'}" for name in wrong)
            raise ValueError(f"the front end '{self.audio.front_end}' needs {needed}")
        return self

    @model_validator(mode="after")
    def _fits_into_memory(self) -> Config:
        audio, data = self.audio, self.data
        if audio.front_end in ("spectrogram", "mel"):
            steps = 1 + 2 * data.max_depth / NOMINAL_SOUND * audio.sample_rate / audio.hop_length
            numbers = round(2 * (1 + audio.n_fft // 2) * steps)
            if numbers > MAX_SPECTROGRAM:
                raise ValueError(
                    f"the spectrogram of one echo has {numbers:,} numbers, and at most {MAX_SPECTROGRAM:,} are taken; "
                    "make audio.hop_length larger, or audio.n_fft smaller"
                )
        side, channels = data.output_size, self.model.base_channels
        if side**2 * channels > MAX_MAPS:
            raise ValueError(
                f"maps of {side} x {side} pixels with {channels} channels have {side**2 * channels:,} numbers, and at "
                f"most {MAX_MAPS:,} are taken; make data.output_size or model.base_channels smaller"
            )
        return self

    @property
    def run_name(self) -> str:
        """Return the name of the run's folder."""
        how = f"BS{self.trainer.batch_size}_Lr{self.trainer.learning_rate:g}_{self.trainer.optimizer}"
        return f"{self.model.name}_{self.data.name}_{how}_{self.tracking.experiment_name}"

    @property
    def in_words(self) -> str:
        """Return what the run is in words, for the titles of pictures and pages."""
        kind, data = MODEL_WORDS[self.model.name], DATASET_WORDS[self.data.name]
        return f"{kind} on {data}, run {self.tracking.experiment_name}"

    @property
    def run_dir(self) -> Path:
        """Return the folder that this run is written to."""
        return self.tracking.results_dir / self.run_name

    def to_yaml(self) -> str:
        """Return the complete settings as YAML, which `load_layer` and `make_config` read back."""
        from base_residual.files.yaml import as_yaml  # slow to import

        return as_yaml(self.model_dump(mode="json"))


def setting_field(section: str, name: str) -> FieldInfo:
    """Return the definition of the setting `section.name`."""
    found: FieldInfo = Config.model_fields[section].annotation.model_fields[name]  # type: ignore[union-attr]
    return found
