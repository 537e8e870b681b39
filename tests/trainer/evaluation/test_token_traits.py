import numpy as np
import torch

from moescope.platform import catalogue
from moescope.platform.frozen import changed
from moescope.trainer.config import RunConfig
from moescope.trainer.data.batches import Batch
from moescope.trainer.evaluation.token_traits import NONE, timestep_trait, token_traits


def batch_of(video_BCFHW: torch.Tensor, labels: list[int]) -> Batch:
    num = len(video_BCFHW)
    return Batch(
        0,
        tuple(map(str, range(num))),
        tuple(range(num)),
        video_BCFHW,
        torch.zeros(num, 8, 8),
        torch.zeros(num, 8, dtype=torch.int64),
        torch.ones(num, dtype=torch.bool),
        torch.tensor(labels),
    )


def shaped(small: RunConfig) -> RunConfig:
    """3 x 3 patches in each of two times, 2 audio tokens, 2 told ones."""
    return changed(
        small,
        {
            "data.num_frames": 2,
            "data.height": 24,
            "data.width": 24,
            "model.patch_frames": 1,
            "model.patch_size": 8,
            "model.patch_mel_steps": 4,
        },
    )


def test_kind_place_and_noise_level_of_each_token(small: RunConfig) -> None:
    config = shaped(small)
    batch = batch_of(torch.zeros(2, 3, 2, 24, 24), [0, 0])
    traits = token_traits(batch, config)
    assert sorted(traits) == sorted(
        [catalogue.ROUTING_BY_KIND, catalogue.ROUTING_BY_REGION, catalogue.ROUTING_BY_MOTION]
    )
    kind = traits[catalogue.ROUTING_BY_KIND]
    assert kind.value_BS.tolist() == [[1] * 18 + [2] * 2]
    assert catalogue.TOKEN_KINDS[kind.of_told] == "told"
    region = traits[catalogue.ROUTING_BY_REGION].value_BS
    assert region.tolist() == [[*range(9), *range(9), NONE, NONE]]
    by_timestep = timestep_trait(torch.tensor([[3, 5], [0, 7]]), config, 8).value_BS
    assert by_timestep.tolist() == [[3] * 18 + [0] * 2, [5] * 18 + [7] * 2]


def test_motion_is_a_quarter_by_how_much_a_patch_changes(small: RunConfig) -> None:
    config = shaped(small)
    video = torch.zeros(1, 3, 2, 24, 24)
    for place in range(9):
        row, column = divmod(place, 3)
        video[0, :, 1, row * 8 : row * 8 + 8, column * 8 : column * 8 + 8] = place / 9
    motion = token_traits(batch_of(video, [0]), config)[catalogue.ROUTING_BY_MOTION]
    of_video = motion.value_BS[0, :18].reshape(2, 9)
    # the first frame has the motion of the second
    assert torch.equal(of_video[0], of_video[1])
    assert of_video[0].tolist() == sorted(of_video[0].tolist())
    assert np.bincount(of_video[0], minlength=4).tolist() == [3, 2, 2, 2]
    assert motion.value_BS[0, 18:].tolist() == [NONE, NONE]


def test_classes_are_told_where_there_are_several(small: RunConfig) -> None:
    config = shaped(small)
    video = torch.zeros(3, 3, 2, 24, 24)
    trait = token_traits(batch_of(video, [7, 2, 7]), config)[catalogue.ROUTING_BY_CLASS]
    assert trait.num_values == 2
    assert trait.value_BS[:, 0].tolist() == [1, 0, 1]
    many = batch_of(torch.zeros(20, 3, 2, 24, 24), list(range(20)))
    trait = token_traits(many, config)[catalogue.ROUTING_BY_CLASS]
    assert trait.num_values == 16
    assert trait.value_BS[15:17, 0].tolist() == [15, NONE]
