"""Every example in configs/ is valid, and a slip of the pen is answered with the right key."""

from pathlib import Path

import pytest
import yaml

from bci_align import config
from bci_align.comparison.pairs import PairsFile
from bci_align.errors import ConfigError
from bci_align.session.importmap import ImportMap

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
FILES = sorted(CONFIGS.rglob("*.yaml"))


def model_of(path: Path) -> type[config.Strict]:
    """What an example is an example of; a new kind of file needs a line here."""
    if path.parent.name == "import":
        return ImportMap
    if path.parent.name == "explain":
        return config.ExplainConfig
    if path.parent.name == "benchmark":
        return PairsFile
    return {"lsl": config.LiveConfig, "zmq": config.LiveConfig, "train": config.TrainConfig}[path.stem]


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(CONFIGS)))
def test_examples_load(path: Path) -> None:
    config.load(model_of(path), path)


def test_the_folder_is_found() -> None:
    assert {"lsl.yaml", "zmq.yaml", "isometric.yaml", "real.yaml"} <= {p.name for p in FILES}


def test_train_shows_the_defaults() -> None:
    assert config.load(config.TrainConfig, CONFIGS / "train.yaml") == config.TrainConfig()


def test_explain_shows_the_defaults() -> None:
    assert config.load(config.ExplainConfig, CONFIGS / "explain" / "defaults.yaml") == config.ExplainConfig()


@pytest.mark.parametrize("value", [".nan", ".inf", "-1", "fast"])
def test_a_value_out_of_range_names_its_key(tmp_path: Path, value: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(f"learning_rate: {value}\n", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"mine\.yaml: key 'learning_rate': .*, found"):
        config.load(config.TrainConfig, path)


def test_lsl_shows_the_defaults() -> None:
    """The example says that its values are the defaults."""
    shown = config.load(config.LiveConfig, CONFIGS / "lsl.yaml")
    assert shown == config.LiveConfig(bundle=shown.bundle)


@pytest.mark.parametrize(
    ("model", "example", "at", "wrong", "right"),
    [
        (config.LiveConfig, "lsl.yaml", (), "calibration_trails", "calibration_trials"),
        (config.LiveConfig, "lsl.yaml", ("align",), "learningrate", "learning_rate"),
        (config.LiveConfig, "zmq.yaml", ("source",), "adress", "address"),
        (ImportMap, "import/isometric.yaml", (), "binwidth_s", "bin_s"),
        (PairsFile, "benchmark/real.yaml", (), "pears", "pairs"),
        (ImportMap, "import/isometric.yaml", ("counts",), "scales", "scale"),
        (ImportMap, "import/isometric.yaml", ("channels",), "prefx", "prefix"),
        (ImportMap, "import/isometric.yaml", ("kinematics", "zero"), "befor_s", "before_s"),
    ],
)
def test_a_misspelt_key_is_answered(
    tmp_path: Path, model: type[config.Strict], example: str, at: tuple[str, ...], wrong: str, right: str
) -> None:
    content = yaml.safe_load((CONFIGS / example).read_text(encoding="utf-8"))
    place = content
    for key in at:
        place = place[key]
    place[wrong] = 1
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    with pytest.raises(ConfigError, match=rf"mine\.yaml: unknown key '{'.'.join((*at, wrong))}'; .* '{right}'$"):
        config.load(model, path)


@pytest.mark.parametrize("line", ["prior_width: 30", "prior_blocks: 33", "prior_steps: 5000", "validation: 0.999"])
def test_training_settings_that_cannot_work_are_refused(tmp_path: Path, line: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(line, encoding="utf-8")
    with pytest.raises(ConfigError, match=f"key '{line.split(':')[0]}'"):
        config.load(config.TrainConfig, path)


@pytest.mark.parametrize("key", ["spread", "information"])
def test_a_gate_that_could_never_open_is_refused(tmp_path: Path, key: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(f"gate: {{{key}: [2.0, 0.5]}}", encoding="utf-8")
    with pytest.raises(ConfigError, match=rf"gate\.{key}"):
        config.load(config.RecalibrateConfig, path)
