"""A trained model in use: pictures in and out at their own size, or new pictures from noise.

A picture passes three stages, which a folder's translation runs in different threads:
prepare (decoded pixels to floats at the network's scale), run (the network), finish (back to pixels at the original
size). `Model.translate` is the three in a row, so that a folder and a single call give the same pixels.
"""

from __future__ import annotations

import copy
import difflib
import hashlib
import io
import itertools
import logging
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeVar, cast

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional

from img2img.checkpoint import ModelInfo, load_networks, model_digest
from img2img.data.decode import Picture, open_whole
from img2img.data.resize import resize, take_nearest
from img2img.data.values import to_float, to_uint8, to_uint16
from img2img.devices import choose_device, fastest_memory_format
from img2img.distributed import World
from img2img.draws import Draws
from img2img.errors import Fault, ImageFault, UsageFault, some_names
from img2img.inference.latents import AT_ONCE, Centre, LatentSpace
from img2img.inference.memory import OutOfMemory, activation_bytes, available_bytes, is_out_of_memory
from img2img.inference.regions import CannotTile
from img2img.inference.styling import StyledGenerator, class_by_folder, is_sound, read_reference
from img2img.inference.tiles import SMALLEST_TILE, TILE_BYTES, Plan, TiledRun, readable_bytes
from img2img.networks.growing import Growing
from img2img.networks.layers import draw_latents
from img2img.shipped import find_model
from img2img.translators.unconditional import NoiseGenerator

if TYPE_CHECKING:
    from img2img.inference.projection import Projection

Scale = Literal["auto", "trained", "native"] | float
Tile = Literal["auto", "off"] | int
Label = str | int
Translatable = TypeVar("Translatable", bound="Image.Image | np.ndarray | Tensor")

_log = logging.getLogger(__name__)
# Far from the trained scale a network sees textures it never learned; from here on the user is told.
LARGEST_USUAL_SCALE = 2.0
# At the trained scale the short side fits. Aspect ratios above this one are made smaller than that: a strip of
# 3 x 4000 pixels would else become 256 x 341,333.
_LARGEST_TRAINED_ASPECT = 8.0
# Below this many input values (a megapixel of RGB) no network here comes near a machine's memory.
_VALUES_WORTH_ASKING = 3 << 20
# What a class is called that stands for any, in models trained with label dropout
ANY_CLASS = "any"


@dataclass(eq=False)
class Prepared:
    """A picture on its way to the network.

    Attributes:
        picture: as decoded; its size, opacity and bit depth come back in `finish`.
        values: (C, h, w) on the CPU at the working scale: uint8, or float32 in [-1, 1] for 16-bit grey.
        enlargement: the working scale relative to the trained one; 1 where both are equal.
    """

    picture: Picture
    values: Tensor
    enlargement: float


class Model:
    """A model file, loaded.

    Attributes:
        info: what the file says of itself.
        digest: sha256 over the weights and what the file says of them, but for licence and measures.
        device, precision: where and in which arithmetic the networks run.
    """

    def __init__(
        self,
        info: ModelInfo,
        networks: Mapping[str, nn.Module],
        *,
        path: str | os.PathLike[str] = "model",
        digest: str = "",
        device: str | torch.device = "cpu",
        precision: Literal["float32", "bfloat16"] = "float32",
    ) -> None:
        self.info = info
        self.path = path
        self.digest = digest
        self.device = torch.device(device)
        self.precision = precision
        layout = fastest_memory_format(self.device)
        self._networks = {name: network.to(memory_format=layout) for name, network in networks.items()}
        self._unstyled: Model | None = None  # of a model with a style: the one without
        self._fatal_values: float = math.inf
        self._bytes_needed: dict[tuple[str, tuple[int, ...]], int] = {}
        self._tiles_told: set[tuple[int | None, tuple[int, int] | None]] = set()
        # class, or None for all, to the mean w that truncation contracts to; filled as it is wanted
        self.style_centres: dict[int | None, Tensor] = {}

    @classmethod
    def load(cls, path: str | os.PathLike[str], device: str = "auto", precision: str = "auto") -> Model:
        """Read a model file.

        Args:
            path: the file, or the name of a model that ships with img2img.
            device: "auto" takes a CUDA GPU, then Apple's, then the CPU.
            precision: "float32", or "bfloat16", which is faster where the processor has it and changes pixels by a few
                levels; "auto" is float32, so that every machine makes the same picture up to rounding.

        Raises:
            UsageFault: not a model file, damaged, or of a newer version; no such file, device or precision.
        """
        if precision not in ("auto", "float32", "bfloat16"):
            raise UsageFault("--precision", f"{precision!r} is unknown", "Use auto, float32 or bfloat16")
        chosen = choose_device(device, World().local_rank)
        path = find_model(path)
        info, networks = load_networks(path, chosen)
        _check_usable(path, info, networks)
        kind: Literal["float32", "bfloat16"] = "bfloat16" if precision == "bfloat16" else "float32"
        return cls(info, networks, path=path, digest=model_digest(path), device=chosen, precision=kind)

    # --- translating ---------------------------------------------------------------------------------------------

    def translate(
        self,
        image: Translatable | str | os.PathLike[str],
        *,
        direction: str | None = None,
        scale: Scale = "auto",
        seed: int = 0,
        style: Label | None = None,
        reference: Image.Image | str | os.PathLike[str] | None = None,
        tile: Tile = "auto",
    ) -> Translatable | Image.Image:
        """Translate one picture; the result has its size.

        Args:
            image: a PIL image or a path gives a PIL image; an array (H, W), (H, W, 1|3|4) of uint8 or uint16 gives an
                array; a float tensor (C, H, W) or (N, C, H, W) in [-1, 1] gives a float tensor on the same device.
                Opacity (alpha) is kept unless the model makes its own. Exif orientation is applied.
            direction: "a2b" or "b2a"; None is the model's first.
            scale: the scale the network works at, see `working_size`.
            seed: of the noise of models with dropout at test time, and of styles that no reference gives.
            style, reference: as in `with_style`, for models that translate into classes.
            tile: "auto" works in tiles where the whole picture does not fit into memory, "off" never does, and a number
                does where the network sees more pixels a side than that, in tiles of that side. Tiles give the picture
                of the whole run up to rounding.

        Raises:
            UsageFault: the model does not translate, or not in this direction or style.
            Fault: the picture cannot be used or is too large for the memory there is.
        """
        if style is not None or reference is not None:
            styled = self.with_style(style, reference=reference, seed=seed)
            return styled.translate(image, direction=direction, scale=scale, seed=seed, tile=tile)
        direction = self.direction(direction)
        if isinstance(image, Tensor):
            return self._translate_tensor(image, direction, scale, seed, tile)  # type: ignore[return-value]
        subject: object = "picture"
        if isinstance(image, np.ndarray):
            picture = _picture_from_array(image)
        elif isinstance(image, Image.Image):
            picture = open_whole(_as_file(image))
        else:
            picture, subject = open_whole(image), image
        prepared = self.prepare(picture, direction, scale)
        if is_far(prepared, scale):
            _log.warning("%s", far_from_trained(subject, prepared.enlargement))
        (result,) = self.run_each(prepared.values[None], direction, seed, tile=tile, subjects=[subject])
        if isinstance(result, OutOfMemory):
            raise too_large(subject, picture, result)
        pixels, alpha = self.finish(result, picture, subject)
        if isinstance(image, np.ndarray):
            return _array_like(image, pixels, alpha)  # type: ignore[return-value]
        return to_pil(pixels, alpha)

    def direction(self, name: str | None = None) -> str:
        """`name` if the model has this direction; the default for None.

        Raises:
            UsageFault: the model makes pictures from noise, has other directions, or was not told a style it needs.
        """
        self._require_task("translate")
        if self.info.classes and self._unstyled is None:
            classes = ", ".join(self.info.classes)
            mend = "Give --style CLASS, or --reference PICTURE of one"
            raise UsageFault("--style", f"{self.path} translates into one of {classes}", mend)
        known = self.info.directions
        if name is None:
            return "a2b" if "a2b" in known else next(iter(known))
        if name not in known:
            described = " and ".join(f"{key} ({self._describe(key)})" for key in sorted(known))
            raise UsageFault("--direction", f"{self.path} has no {name}, only {described}", f"Use {sorted(known)[0]}")
        return name

    def with_style(
        self,
        style: Label | None = None,
        *,
        reference: Image.Image | str | os.PathLike[str] | None = None,
        seed: int = 0,
    ) -> Model:
        """This model, translating every picture into one style.

        Args:
            style: class name or index. With a reference it is the reference's class, and may be left out where the
                reference is a file in a folder of that name.
            reference: a picture whose style is taken.
            seed: without a reference, of the latent from which the style is made.

        Raises:
            UsageFault: the model has no styles or not this class, or nobody said which.
            Fault: the reference cannot be used.
        """
        if self._unstyled is not None:
            return self._unstyled.with_style(style, reference=reference, seed=seed)
        self._require_task("translate")
        subject = "--style" if reference is None else "--reference"
        if not self.info.classes:
            directions = " and ".join(self._describe(name) for name in sorted(self.info.directions))
            raise UsageFault(subject, f"{self.path} has no styles, it translates {directions}", f"Leave {subject} out")
        if reference is not None:
            file = _as_file(reference) if isinstance(reference, Image.Image) else reference
            pixels = read_reference(file, self.info)
            style = class_by_folder(reference, self.info) if style is None else style
        if style is None:
            problem = "is not given" if reference is None else f"{reference} does not say of which class it is"
            raise UsageFault(subject, problem, f"Give --style, one of {', '.join(self.info.classes)}")
        label = torch.tensor([self._class_index(style, "--style")], device=self.device)
        with torch.inference_mode():
            if reference is None:
                made_from = f"seed {seed}"
                mapping, number = self._networks["generator_mapping"], torch.zeros_like(label)
                code = mapping(draw_latents(mapping, Draws(seed, "style", number)), label)
            else:
                made_from = f"reference {hashlib.sha256(pixels.numpy().tobytes()).hexdigest()}"
                code = self._networks["generator_style_encoder"](to_float(pixels[None]).to(self.device), label)
        styled = copy.copy(self)
        styled._unstyled = self
        styled._networks = {
            **self._networks,
            "generator": StyledGenerator(self._networks["generator"], code[0].clone()),
        }
        # other options of a run make other outputs: the manifest of a folder knows them by the model
        styled.digest = hashlib.sha256(f"{self.digest}/{label.item()}/{made_from}".encode()).hexdigest()
        return styled

    def working_size(self, size: tuple[int, int], direction: str, scale: Scale = "auto") -> tuple[int, int]:
        """The (height, width) at which the network sees a picture of `size`.

        "native" is the picture's own size. "trained" is the scale of training: the trained resolution just covered
        (the picture's aspect ratio kept), or exactly that resolution for a model trained with fit "stretch". A number
        multiplies the picture's size. "auto" is "trained" for networks bound to their size and "native" for others.
        """
        if scale == "auto":
            scale = (
                "trained"
                if getattr(self._networks[self.info.directions[direction]], "fixed_scale", False)
                else "native"
            )
        if scale == "native":
            return size
        if scale == "trained" and self.info.fit == "stretch":
            return self.info.resolution
        factor = self._trained_factor(size) if scale == "trained" else float(scale)
        return max(1, round(size[0] * factor)), max(1, round(size[1] * factor))

    def prepare(self, picture: Picture, direction: str, scale: Scale = "auto") -> Prepared:
        """Decoded pixels to the network's input, on the CPU."""
        channels = self.info.channels[direction[0]]
        size = (picture.height, picture.width)
        working = self.working_size(size, direction, scale)
        if picture.pixels.dtype == np.uint16:
            values = torch.from_numpy(picture.pixels.astype(np.float32)).permute(2, 0, 1) / 32767.5 - 1
            values = _resize_float(values[None], working)[0].clamp(-1, 1).expand(min(channels, 3), -1, -1)
            if channels == 4:
                alpha = torch.from_numpy(picture.as_channels(4)[..., 3:]).permute(2, 0, 1)
                values = torch.cat((values, to_float(resize(alpha, working))))
        else:
            pixels = torch.from_numpy(np.ascontiguousarray(picture.as_channels(channels)))
            change = take_nearest if self.takes_labels(direction) else resize
            values = change(pixels.permute(2, 0, 1), working)
        # how large things look, relative to training: the geometric mean covers fit "stretch"
        trained = self.info.resolution if self.info.fit == "stretch" else _scaled(size, self._trained_factor(size))
        enlargement = math.sqrt(working[0] * working[1] / (trained[0] * trained[1]))
        return Prepared(picture, values, enlargement)

    def run_each(
        self,
        values: Tensor,
        direction: str,
        seed: int = 0,
        *,
        tile: Tile = "auto",
        subjects: Sequence[object] = (),
    ) -> list[Tensor | OutOfMemory]:
        """The network on (N, C, h, w), uint8 or float in [-1, 1]; each result is (C', h, w) float32 on the CPU.

        A batch that does not fit into memory is halved, down to single pictures; one that does not fit alone is done in
        tiles, and OutOfMemory is in its place where that cannot be, or `tile` is "off". A picture's result does not
        depend on the others in the batch.

        Args:
            tile: as in `translate`.
            subjects: the pictures' names, for the log.
        """
        if isinstance(tile, int) and max(values.shape[-2:]) > tile:
            return [
                self._run_in_tiles(one[None], direction, seed, tile, subject)
                for one, subject in itertools.zip_longest(values, subjects)
            ]
        try:
            if len(values) > 1 and values.numel() >= self._fatal_values:
                raise OutOfMemory
            return list(self._run(values, direction, seed))
        except OutOfMemory as error:
            if len(values) == 1 and tile == "off":
                return [error]
            if len(values) > 1:
                self._fatal_values = min(self._fatal_values, values.numel())
        if len(values) == 1:
            return [self._run_in_tiles(values, direction, seed, None, *subjects)]
        half = len(values) // 2
        first = self.run_each(values[:half], direction, seed, tile=tile, subjects=subjects[:half])
        return first + self.run_each(values[half:], direction, seed, tile=tile, subjects=subjects[half:])

    def finish(self, values: Tensor, picture: Picture, subject: object) -> tuple[np.ndarray, np.ndarray | None]:
        """The network's output (C', h, w) to pixels (H, W, C') at the picture's own size, and its opacity.

        Grey of 16 bits stays so where the model makes grey. Opacity is the picture's own unless the model makes it.

        Raises:
            ImageFault: the network gave a value that is not a number.
        """
        values = _resize_float(values[None], (picture.height, picture.width))[0]
        deep = picture.pixels.dtype == np.uint16 and len(values) == 1
        try:
            pixels = to_uint16(values) if deep else to_uint8(values)
        except FloatingPointError as error:
            raise ImageFault(
                subject, "the network's result is not a number everywhere", "Use --precision float32 or another --scale"
            ) from error
        if len(values) == 4:
            return pixels[..., :3], pixels[..., 3]
        return pixels, picture.alpha

    def _translate_tensor(self, images: Tensor, direction: str, scale: Scale, seed: int, tile: Tile) -> Tensor:
        channels = self.info.channels[direction[0]]
        if images.ndim not in (3, 4) or images.shape[-3] != channels or not images.is_floating_point():
            raise UsageFault(
                "image",
                f"a {images.dtype} tensor of shape {tuple(images.shape)}",
                f"Give floats in [-1, 1] of shape ({channels}, H, W) or (N, {channels}, H, W)",
            )
        size = (images.shape[-2], images.shape[-1])
        batch = images.reshape(-1, *images.shape[-3:]).float()
        change = take_nearest if self.takes_labels(direction) else _resize_float
        working = change(batch, self.working_size(size, direction, scale))
        results = self.run_each(working, direction, seed, tile=tile)
        found = [result for result in results if isinstance(result, Tensor)]
        if len(found) < len(results):
            raise Fault("image", f"{size[1]} × {size[0]} pixels need more memory than there is", _SCALE_MEND)
        translated = _resize_float(torch.stack(found), size).clamp(-1, 1).to(images.device)
        return translated if images.ndim == 4 else translated[0]

    def _run(self, values: Tensor, direction: str, seed: int) -> Tensor:
        try:
            self._ask_for_memory(values, direction)
            with torch.inference_mode():
                return self._apply(values.to(self.device), direction, seed).cpu()
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        raise OutOfMemory

    def _run_in_tiles(
        self, values: Tensor, direction: str, seed: int, side: int | None, subject: object = None
    ) -> Tensor | OutOfMemory:
        """`_run` of one picture (1, C, h, w), by tiles; its result (C', h, w), or why there is none."""
        height, width = values.shape[-2:]
        result_bytes = 4 * self.info.channels[direction[-1]] * height * width
        try:
            run = TiledRun(
                lambda images: self._apply(images, direction, seed),
                values,
                self.device,
                side=side,
                tile_bytes=self._bytes_for_tiles(result_bytes),
            )
            self._tell_of_tiles(run.plan, side, (height, width), subject)
            return run.run()[0]
        except CannotTile as error:
            return OutOfMemory(str(error))
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        return OutOfMemory("its tiles do not fit either")

    def _tell_of_tiles(self, plan: Plan, side: int | None, size: tuple[int, int], subject: object) -> None:
        """Say what a run in tiles takes: once for pictures of a size, and for all small ones that are to be tiled."""
        told = (side, size if side is None or plan.disk_bytes >= _WORTH_TELLING else None)
        if told in self._tiles_told:
            return
        self._tiles_told.add(told)
        _log.info(
            "note: %s: %d × %d pixels %s, in tiles of %d × %d: the same picture up to rounding, in %d passes and "
            "with %s of temporary files",
            subject or "picture",
            *reversed(size),
            "do not fit into memory at once" if side is None else "are translated",
            *reversed(plan.tile),
            plan.num_sweeps,
            readable_bytes(plan.disk_bytes),
        )

    def _bytes_for_tiles(self, result_bytes: int) -> int:
        if self.device.type == "cuda":
            return min(TILE_BYTES, torch.cuda.mem_get_info(self.device)[0] // 2)
        available = available_bytes(self.device)
        return TILE_BYTES if available is None else min(TILE_BYTES, (available - result_bytes) // 2)

    def _apply(self, values: Tensor, direction: str, seed: int) -> Tensor:
        """The network on (N, C, h, w), uint8 or float in [-1, 1], on its device: (N, C', h, w) float32."""
        network = self._networks[self.info.directions[direction]]
        height, width = values.shape[-2:]
        images = to_float(values) if values.dtype == torch.uint8 else values
        images, top, left = pad_to(images, *stride_and_least(network))
        draws = None
        if getattr(network, "dropout_at_test", False):
            # number 0 for every picture: its result depends on the picture and the seed alone
            draws = Draws(seed, "dropout", torch.zeros(len(images), dtype=torch.int64, device=self.device))
        with self._autocast():
            output = network(images, draws)
        return output[..., top : top + height, left : left + width].float()

    def _ask_for_memory(self, values: Tensor, direction: str) -> None:
        if values.numel() < _VALUES_WORTH_ASKING or (available := available_bytes(self.device)) is None:
            return
        key = (direction, tuple(values.shape))
        if key not in self._bytes_needed:
            network = self._networks[self.info.directions[direction]]
            images, _top, _left = pad_to(
                torch.empty(values.shape, dtype=torch.float32, device="meta"), *stride_and_least(network)
            )
            self._bytes_needed[key] = activation_bytes(network, images)
        if self._bytes_needed[key] > available:
            raise OutOfMemory

    def _trained_factor(self, size: tuple[int, int]) -> float:
        (height, width), (trained_height, trained_width) = size, self.info.resolution
        covering = max(trained_height / height, trained_width / width)
        bounded = math.sqrt(_LARGEST_TRAINED_ASPECT * trained_height * trained_width / (height * width))
        return min(covering, bounded)

    # --- sampling ------------------------------------------------------------------------------------------------

    def sample(
        self,
        count: int,
        *,
        label: Label | Sequence[Label] | None = None,
        seed: int = 0,
        truncation: float | None = None,
        centre: Centre | None = None,
    ) -> list[Image.Image]:
        """`count` new pictures. Picture i of a seed and label is the same whatever the count.

        Args:
            label: class name or index, or several, taken in turn; None takes all classes in turn.
            truncation, centre: less variety for more fidelity, see latents.LatentSpace.

        Raises:
            UsageFault: the model translates instead, does not know the class, or a truncation that is none of its kind.
        """
        made = self.samples(count, label=label, seed=seed, truncation=truncation, centre=centre)
        return [to_pil(*_split_alpha(pixels)) for _, pixels in made]

    def samples(
        self,
        count: int,
        *,
        label: Label | Sequence[Label] | None = None,
        seed: int = 0,
        start: int = 0,
        truncation: float | None = None,
        centre: Centre | None = None,
    ) -> Iterator[tuple[int | None, np.ndarray]]:
        """As `sample`, one after the other: (class index or None, (H, W, C) uint8), from number `start` on."""
        if count < 1:
            raise UsageFault("--count", f"{count} pictures", "Ask for at least one")
        space = LatentSpace(self, seed=seed, label=label, truncation=truncation, centre=centre)
        return self._samples(space, range(start, start + count))

    def interpolate(
        self,
        first: int,
        second: int,
        steps: int = 8,
        *,
        label: Label | None = None,
        seed: int = 0,
        truncation: float | None = None,
    ) -> list[Image.Image]:
        """`steps` + 1 pictures on the way from sample number `first` of a seed and class to number `second`.

        Args:
            label: None is the first class.

        Raises:
            UsageFault: as sample.
        """
        from img2img.inference.explore import interpolate

        space = LatentSpace(self, seed=seed, label=label or (0 if self.info.classes else None), truncation=truncation)
        (frames,) = interpolate(space, [first, second], steps)
        return [to_pil(*_split_alpha(pixels)) for pixels in frames]

    def project(
        self, image: Image.Image | str | os.PathLike[str], *, label: Label | None = None, steps: int = 500
    ) -> Projection:
        """The latent whose picture is nearest to `image`; projection.Projector has more to choose.

        Raises:
            UsageFault: the model makes no samples or does not know the class. Fault: the picture cannot be used.
        """
        from img2img.inference.projection import Projector, prepare_target

        picture = open_whole(_as_file(image) if isinstance(image, Image.Image) else image)
        subject = "picture" if isinstance(image, Image.Image) else image
        return Projector(self, prepare_target(self, picture, subject), label=label).run(steps)

    def generator(self) -> NoiseGenerator:
        """The network that makes samples, in float32: latents and labels to floats in [−1, 1].

        Raises:
            UsageFault: the model translates instead.
        """
        self._require_task("sample")
        return cast(NoiseGenerator, self._networks["generator"])

    def class_indices(self, label: Label | Sequence[Label] | None = None) -> list[int]:
        """The classes that samples take in turn; empty for a model without classes."""
        self._require_task("sample")
        if label is None:
            return list(range(len(self.info.classes)))
        wanted = [label] if isinstance(label, (str, int)) else list(label)
        return [self._class_index(item) for item in wanted]

    def _samples(self, space: LatentSpace, wanted: range) -> Iterator[tuple[int | None, np.ndarray]]:
        for first in range(wanted.start - wanted.start % AT_ONCE, wanted.stop, AT_ONCE):
            numbers = range(first, first + AT_ONCE)
            codes = space.codes(numbers)
            classes = [None] * AT_ONCE if codes.labels is None else codes.labels.tolist()
            for number, label, pixels in zip(numbers, classes, space.pixels(codes)):
                if number in wanted:
                    yield label, pixels

    def _class_index(self, label: Label, option: str = "--class") -> int:
        classes = self.info.classes
        if not classes:
            raise UsageFault("--class", f"{self.path} knows no classes", "Leave --class out")
        if isinstance(label, str):
            if label in classes:
                return classes.index(label)
            if label == ANY_CLASS and self._makes_any_class():
                return len(classes)
            # where names are numbers, a number that is none of them is no place in the list either
            if not label.isdecimal() or any(name.isdecimal() for name in classes):
                # a number is no misspelling of another
                close = [] if label.isdecimal() else difflib.get_close_matches(label, classes, n=1)
                mend = f"Did you mean {close[0]}?" if close else f"Its classes: {some_names(classes)}"
                raise UsageFault(option, f"{self.path} has no class {label}", mend)
        index = int(label)
        if not 0 <= index < len(classes):
            raise UsageFault(option, f"{self.path} has classes 0 to {len(classes) - 1}, not {index}", "Use one of them")
        return index

    def _makes_any_class(self) -> bool:
        """It was trained with train.label_dropout: its last class stands for any."""
        return bool(getattr(self._networks["generator"], "num_classes", 0) > len(self.info.classes))

    def takes_labels(self, direction: str) -> bool:
        """Pictures are label maps, whose colours must not be mixed."""
        return getattr(self._networks[self.info.directions[direction]], "palette", None) is not None

    def _require_task(self, task: Literal["translate", "sample"]) -> None:
        if self.info.task != task:
            is_for, mend = {
                "translate": ("translates pictures", "Use img2img translate"),
                "sample": ("makes new pictures", "Use img2img sample"),
                "points": ("makes points of a toy world, not pictures", "See them in its run's report.html"),
            }[self.info.task]
            raise UsageFault(self.path, f"this model {is_for}", mend)

    def _describe(self, direction: str) -> str:
        names = [self.info.domains.get(domain, domain) for domain in (direction[0], direction[-1])]
        return " → ".join(names)

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bfloat16")


_WORTH_TELLING = 1e8  # bytes of temporary files
_SCALE_MEND = "Use --scale trained, or a factor such as --scale 0.5"


def too_large(subject: object, picture: Picture, error: OutOfMemory) -> ImageFault:
    """The fault of a picture whose translation does not fit into memory, alone in its batch."""
    why_no_tiles = f", and it cannot be done in tiles: {error}" if str(error) else ""
    return ImageFault(
        subject, f"{picture.width} × {picture.height} pixels need more memory than there is{why_no_tiles}", _SCALE_MEND
    )


def is_far(prepared: Prepared, scale: Scale) -> bool:
    """Whether a picture at its own size, which nobody asked to enlarge, is far above the trained scale."""
    return scale in ("auto", "native") and prepared.enlargement > LARGEST_USUAL_SCALE


def far_from_trained(subject: object, enlargement: float) -> str:
    """What a user is told about a picture much larger than those the model learned from."""
    return (
        f"{subject} is {enlargement:.1f} times the scale the model was trained at; "
        "compare with --scale trained, which may look better"
    )


def _check_usable(path: str | os.PathLike[str], info: ModelInfo, networks: Mapping[str, nn.Module]) -> None:
    """Refuse a description that a foreign program made up: what follows relies on it."""
    if info.task == "translate":
        sound = (
            bool(info.directions)
            and all(
                name in ("a2b", "b2a")
                and getattr(networks[network], "in_channels", None) == info.channels.get(name[0])
                and getattr(networks[network], "out_channels", None) == info.channels.get(name[-1])
                for name, network in info.directions.items()
            )
            and is_sound(info, networks)
        )
    else:
        generator = networks.get("generator")
        sound = (
            hasattr(generator, "latent_dim")
            and getattr(generator, "num_classes", None) in (len(info.classes), len(info.classes) + bool(info.classes))
            and getattr(generator, "out_channels", None) == info.channels.get("image")
            and (info.task == "points" or getattr(generator, "members", 1) == 1)
            and _size_of(generator, info) == info.resolution
        )
    if not sound:
        raise UsageFault(path, "its description does not fit its networks", "Use the version of img2img that wrote it")


def _size_of(generator: nn.Module | None, info: ModelInfo) -> tuple[int, ...]:
    """(height, width) of what the generator makes now."""
    size = info.networks["generator"].arguments.get("resolution", info.resolution)
    halvings = generator.halvings if isinstance(generator, Growing) else 0
    return tuple(side >> halvings for side in size)


def parse_scale(text: str) -> Scale:
    """`--scale`: auto, trained, native or a factor above zero.

    Raises:
        UsageFault: anything else.
    """
    named: dict[str, Scale] = {"auto": "auto", "trained": "trained", "native": "native"}
    if text in named:
        return named[text]
    try:
        factor = float(text)
    except ValueError:
        factor = math.nan
    if not 0 < factor < math.inf:
        raise UsageFault("--scale", f"{text!r} is no scale", "Use auto, trained, native or a factor such as 0.5")
    return factor


def parse_tile(text: str) -> Tile:
    """`--tile`: auto, off or a number of pixels.

    Raises:
        UsageFault: anything else.
    """
    named: dict[str, Tile] = {"auto": "auto", "off": "off"}
    if text in named:
        return named[text]
    if not text.isascii() or not text.isdecimal() or int(text) < SMALLEST_TILE:
        raise UsageFault(
            "--tile", f"{text!r} is no size of tiles", f"Use auto, off or a number of pixels from {SMALLEST_TILE} on"
        )
    return int(text)


def stride_and_least(network: nn.Module) -> tuple[int, int]:
    """What the sides of its pictures are multiples of, and at least."""
    return int(getattr(network, "stride", 1)), int(getattr(network, "min_size", 1))


def pad_to(images: Tensor, stride: int, smallest: int) -> tuple[Tensor, int, int]:
    """Pad (N, C, H, W) at both sides to multiples of `stride` of at least `smallest`; also returns top and left.

    By reflection where the picture is larger than the padding, else by repeating its edge.
    """
    before = {}
    for axis in (2, 3):
        side = images.shape[axis]
        padding = math.ceil(max(side, smallest) / stride) * stride - side
        before[axis] = padding // 2
        if padding:
            amounts = (padding // 2, padding - padding // 2)
            mode = "reflect" if amounts[1] < side else "replicate"
            images = functional.pad(images, (0, 0, *amounts) if axis == 2 else (*amounts, 0, 0), mode=mode)
    return images, before[2], before[3]


def to_pil(pixels: np.ndarray, alpha: np.ndarray | None) -> Image.Image:
    """(H, W, 1|3) pixels and opacity as a PIL image of mode L, I;16, RGB, LA or RGBA; 16 bits with opacity become 8."""
    if alpha is not None and pixels.dtype == np.uint16:
        pixels = ((pixels.astype(np.uint32) + 128) // 257).astype(np.uint8)
    image = Image.fromarray(np.ascontiguousarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels))
    if alpha is not None:
        image.putalpha(Image.fromarray(np.ascontiguousarray(alpha)))
    return image


def _scaled(size: tuple[int, int], factor: float) -> tuple[float, float]:
    return size[0] * factor, size[1] * factor


def _resize_float(values: Tensor, size: tuple[int, int]) -> Tensor:
    """(N, C, H, W) float to (N, C, *size) by the same filter as the project's uint8 resizing."""
    if tuple(values.shape[-2:]) == tuple(size):
        return values
    return functional.interpolate(values, size=size, mode="bicubic", antialias=True, align_corners=False)


def _split_alpha(pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
    return (pixels[..., :3], pixels[..., 3]) if pixels.shape[2] == 4 else (pixels, None)


def _as_file(image: Image.Image) -> io.BytesIO:
    """A PIL image as an uncompressed file in memory, so that every mode and profile takes the one way in."""
    buffer = io.BytesIO()
    modes_of_png = ("1", "L", "LA", "P", "RGB", "RGBA", "I", "I;16")
    kept = {"icc_profile": image.info.get("icc_profile"), "exif": image.getexif()}
    if image.mode in modes_of_png:
        image.save(buffer, "PNG", compress_level=0, **kept)
    elif image.mode in ("PA", "La", "RGBa"):
        image.convert("RGBA").save(buffer, "PNG", compress_level=0, **kept)
    elif image.mode == "YCbCr":  # Pillow 12 does not read the TIFF that it makes of it
        image.convert("RGB").save(buffer, "PNG", compress_level=0, **kept)
    else:
        image.save(buffer, "TIFF", **kept)
    return buffer


def _picture_from_array(array: np.ndarray) -> Picture:
    shape = array.shape if array.ndim == 3 else (*array.shape, 1)
    deep = array.dtype == np.uint16 and shape[2:] == (1,)
    if len(shape) != 3 or 0 in shape or not (deep or (array.dtype == np.uint8 and shape[2] in (1, 3, 4))):
        raise UsageFault(
            "image",
            f"an array of {array.dtype} and shape {array.shape}",
            "Give (H, W), (H, W, 1), (H, W, 3) or (H, W, 4) of uint8, or grey of uint16",
        )
    # copied, since torch wants memory it may write to and Pillow hands out some that it may not
    pixels, alpha = _split_alpha(np.array(array).reshape(shape))
    return Picture(pixels, alpha, "array", None, ())


def _array_like(array: np.ndarray, pixels: np.ndarray, alpha: np.ndarray | None) -> np.ndarray:
    """The result in the form of what came in: with opacity if that had it, without a channel axis if that had none."""
    if alpha is not None:
        colour = pixels if pixels.shape[2] == 3 else np.repeat(pixels, 3, axis=2)
        return np.concatenate((colour, alpha[..., None]), axis=2)
    return pixels[..., 0] if array.ndim == 2 and pixels.shape[2] == 1 else pixels
