import pytest
import tiny_classifiers

pytest.importorskip("transformers", reason="classifiers need transformers")
pytest.importorskip("spacy", reason="classifiers need spaCy")


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    return tiny_classifiers.write_classifier(tmp_path_factory.mktemp("classifiers") / "small")


@pytest.fixture(scope="session")
def factcc(tmp_path_factory):
    return tiny_classifiers.write_factcc(tmp_path_factory.mktemp("classifiers") / "factcc")


@pytest.fixture
def own_folder(tmp_path):
    """A classifier that a test may damage."""
    return tiny_classifiers.write_classifier(tmp_path / "own")
