from typing import Any

import pytest

from eval.training_config import FinetuneConfig, SupervisedConfig, TransferConfig, paper_epochs


def test_the_paper_trains_longer_on_fewer_labels() -> None:
    assert [paper_epochs(fraction) for fraction in (0.005, 0.01, 0.1, 1.0)] == [60, 60, 30, 30]


def test_epochs_are_the_papers_unless_told() -> None:
    usual = FinetuneConfig(fractions="0.01, 0.1,1")
    assert [usual.epochs_of(fraction) for fraction in usual.fraction_numbers] == [60, 30, 30]
    told = FinetuneConfig(fractions="0.01,0.1", epochs="5,7")
    assert [told.epochs_of(fraction) for fraction in told.fraction_numbers] == [5, 7]


def test_a_supervised_network_learns_from_all_labels_as_long_as_the_run_from_none() -> None:
    config = SupervisedConfig(fractions="0.01,1")
    assert [config.epochs_of(fraction, 12) for fraction in config.fraction_numbers] == [60, 12]
    assert config.epochs_of(1.0, None) is None
    assert SupervisedConfig(epochs="9").epochs_of(1.0, None) == 9


@pytest.mark.parametrize("fractions", ["", "0", "1.5", "-0.1", "nan", "0.1,x"])
@pytest.mark.parametrize(("config", "name"), [(FinetuneConfig, "finetune"), (SupervisedConfig, "supervised")])
def test_fractions_that_are_none_are_refused(config: type, name: str, fractions: str) -> None:
    with pytest.raises(ValueError, match=rf"{name}\.fractions = .* wanted"):
        config(fractions=fractions)


@pytest.mark.parametrize("epochs", ["5", "5,0", "5,x", "5,6,7", "5.5,6"])
@pytest.mark.parametrize(("config", "name"), [(FinetuneConfig, "finetune"), (SupervisedConfig, "supervised")])
def test_epochs_that_do_not_fit_the_fractions_are_refused(config: type, name: str, epochs: str) -> None:
    with pytest.raises(ValueError, match=rf"{name}\.epochs = {epochs}: .* each of the fractions 0.01, 0.1 is wanted"):
        config(fractions="0.01,0.1", epochs=epochs)


@pytest.mark.parametrize(("config", "name"), [(FinetuneConfig, "finetune"), (SupervisedConfig, "supervised")])
def test_lists_that_do_not_fit_the_fractions_are_refused(config: type, name: str) -> None:
    with pytest.raises(ValueError, match=rf"{name}\.lists: 1 files for 2 fractions; name one for each"):
        config(fractions="0.01,0.1", lists="a.txt")
    assert config(fractions="0.01,0.1", lists="a.txt, b.txt").list_files == ("a.txt", "b.txt")


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"learning_rates": "0"}, "learning_rates = 0: numbers above 0"),
        ({"learning_rates": ""}, "learning_rates = : numbers above 0"),
        ({"learning_rates": "inf"}, "learning_rates = inf: numbers above 0"),
        ({"learning_rates": "a,b"}, "learning_rates = a,b: numbers separated by commas"),
        ({"weight_decays": "-1"}, "weight_decays = -1: numbers from 0"),
        ({"weight_decays": "nan"}, "weight_decays = nan: numbers from 0"),
    ],
)
def test_grids_that_are_none_are_refused(fields: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=rf"transfer\.{told} .*wanted"):
        TransferConfig(**fields)


def test_a_warm_up_longer_than_all_is_refused() -> None:
    with pytest.raises(ValueError, match=r"supervised.warmup_share = 1.5: a part of all updates, at most 1"):
        SupervisedConfig(warmup_share=1.5)
