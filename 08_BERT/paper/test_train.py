"""The training scripts of level 3 do what a plain loop does, and pass the weights on."""

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import transformers

from bert_paper import BertConfig, BertModel
from heads_paper import BertForPreTraining, BertForSequenceClassification
from masking_numpy import mask_tokens, pack_pairs
from pretraining_paper import linear_decay, paper_optimizer, pretraining_loss
from utils.data_loaders import Arrays
from utils.document_data import Documents, PackedTexts
from utils.exercises import load_module
from utils.options import parse_options
from utils.parity import perturb
from utils.runs import by_length, read_metrics
from utils.weights import load_weights, save_weights
from wordpiece_numpy import WordPiece

HERE = Path(__file__).parent
train = load_module(HERE / "train.py", "train_bert_paper")
finetune = load_module(HERE / "train_finetune.py", "train_finetune_bert_paper")
LETTERS, RNG = list("abcdefghij"), np.random.default_rng(0)
WORDS = ["".join(RNG.choice(LETTERS, size=n)) for n in RNG.integers(2, 9, size=150)]
SENTENCES = [" ".join(RNG.choice(WORDS, size=n)) + " ." for n in RNG.integers(1, 7, size=240)]
DOCUMENTS = [SENTENCES[i : i + 4] for i in range(0, 240, 4)]
# The second part has letters that a tokenizer must not learn from it.
FEW = Documents(DOCUMENTS[:40], [*DOCUMENTS[40:], ["xyz zyx", "xyz", "zyx zyx"]])
SMALL = "--device cpu --width 12 --heads 3 --hidden 10 --layers 2 --batch-size 5"
CLASSES = ("negative", "positive")


@pytest.fixture
def few_texts(monkeypatch):
    """Short texts of many lengths, half of them with one more word."""
    x = np.array([s[:-1] + "list ." * (i % 2) for i, s in enumerate(SENTENCES)], dtype=object)
    y = np.arange(len(x)) % 2
    data = Arrays(x[:30], y[:30], np.array([*x[30:50], "xyz"], object), y[30:51], CLASSES)
    monkeypatch.setattr(finetune, "load_arrays", lambda *_: data)
    return data


def seed_step(seed, step):
    """Torch's random numbers as ``fit`` has them in this step, when the loss is computed."""
    torch.manual_seed(int(np.random.SeedSequence([seed, step, 0]).generate_state(1)[0]))
    torch.empty((), dtype=torch.int64).random_()  # a DataLoader draws one when it begins


def test_pre_training_is_the_plain_loop(tmp_path, monkeypatch):
    asked, drawn, padded = [], [], 0
    monkeypatch.setattr(train, "load_documents", lambda *a: asked.append(a) or FEW)
    monkeypatch.setattr(train, "plot_attention", lambda *a, **k: drawn.append((a, k["path"])))
    words = f"{SMALL} --seed 3 --lr 0.01 --warmup 0.5 --dropout 0.2 --limit 14 --epochs 2"
    words += f" --data reviews --longest 30 --vocabulary 300 --clip-norm 0.5 --out {tmp_path}"
    train.main([*words.split(), "--data-dir", str(tmp_path)])
    assert asked == [("reviews", tmp_path)]
    (folder,) = tmp_path.glob("*/*")

    tokenizer = WordPiece.train(SENTENCES[:160], 300)
    rng = np.random.default_rng(3)
    data, test_set = (
        PackedTexts(*pack_pairs(part, tokenizer, 30, rng)) for part in (FEW.train, FEW.test)
    )
    torch.manual_seed(3)
    config = BertConfig(300, 12, 3, 10, 2, 30, dropout=0.2, attention_dropout=0.2)
    model = BertForPreTraining(BertModel(config))
    optimizer, wanted = paper_optimizer(model), []
    schedule = linear_decay(6, 3)
    for step in range(6):  # 2 epochs of 3 batches
        epoch, i = divmod(step, 3)
        rng = np.random.default_rng([3, 0, epoch])
        index = by_length(rng.permutation(14), data.lengths, 5, rng)[i]
        tokens, segments, follows = data.arrays(index)
        padded += (tokens == 0).any()
        seed_step(3, step)
        rng = np.random.default_rng(int(torch.randint(2**62, ())))
        maskable = (tokens != 0) & (tokens != 2) & (tokens != 3)
        inputs, labels = mask_tokens(tokens, maskable, len(tokenizer), 4, rng)
        arrays = (inputs, segments, tokens != 0, labels != -100)
        logits, pair = model(*map(torch.from_numpy, arrays))
        hidden = torch.from_numpy(labels[labels != -100])
        loss = pretraining_loss(logits, pair, hidden, torch.from_numpy(follows))
        for group in optimizer.param_groups:
            group["lr"] = 0.01 * schedule(step)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 0.5)
        optimizer.step()
        mlm_loss = F.cross_entropy(logits, hidden).item()
        wanted.append((loss.item(), mlm_loss, 0.01 * schedule(step)))
    logged = [r for r in read_metrics(folder) if "loss" in r]
    got = [(r["loss"], r["mlm_loss"], r["lr"]) for r in logged]
    np.testing.assert_allclose(got, wanted, rtol=1e-5)
    assert padded
    trained = load_weights(folder / "model.safetensors")
    for name, p in model.named_parameters():
        np.testing.assert_allclose(trained[name], p.detach().numpy(), rtol=0, atol=1e-5)
    assert (folder / "vocab.txt").read_text().split("\n") == list(tokenizer.tokens)
    assert BertConfig(**json.loads((folder / "bert.json").read_text())) == config
    model.eval()
    measured = train.measure(model, test_set, tokenizer, torch.device("cpu"))
    measured["train_loss"] = np.mean([loss for loss, *_ in wanted[3:]])
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["metrics"] == pytest.approx(measured, rel=1e-4)
    # What is drawn: the last layer, as it reads the first held-out pair, 24 tokens of it.
    (((weights, queries, keys), path),) = drawn
    tokens, segments = (torch.from_numpy(a[:1, :24]) for a in (test_set.tokens, test_set.segments))
    maps = model.bert.attention_maps(tokens, segments)
    torch.testing.assert_close(weights, maps[1, 0], rtol=0, atol=1e-5)
    assert queries == keys == [tokenizer.tokens[i] for i in tokens[0]]
    assert path == folder / "attention.png"


def test_measure_counts_every_chosen_token():
    tokenizer = WordPiece.train(SENTENCES, 300)
    data = PackedTexts(*pack_pairs(DOCUMENTS * 2, tokenizer, 24, np.random.default_rng(0)))
    torch.manual_seed(0)
    model = BertForPreTraining(BertModel(BertConfig(300, 12, 3, 10, 1, 24))).double().eval()
    got = train.measure(model, data, tokenizer, torch.device("cpu"))
    losses, hits, follow, rng = [], [], [], np.random.default_rng(0)
    assert len(data) > 100 and (data.tokens == 0).any()
    for start in range(0, len(data), 100):
        tokens, segments, follows = data.arrays(np.arange(len(data))[start : start + 100])
        maskable = (tokens != 0) & (tokens != 2) & (tokens != 3)
        inputs, labels = mask_tokens(tokens, maskable, len(tokenizer), 4, rng)
        with torch.no_grad():
            logits, pair = model(*map(torch.from_numpy, (inputs, segments, tokens != 0)))
        for b, t in zip(*np.nonzero(labels != -100), strict=True):
            losses.append(-logits[b, t].log_softmax(0)[labels[b, t]].item())
            hits.append(logits[b, t].argmax().item() == labels[b, t])
        follow += (pair.argmax(dim=1).numpy() == follows).tolist()
    want = np.mean(losses), np.mean(hits), np.mean(follow)
    assert list(got) == ["test_mlm_loss", "test_mlm_accuracy", "test_nsp_accuracy"]
    assert list(got.values()) == pytest.approx(want)


def test_the_picture_is_drawn(tmp_path):
    tokenizer = WordPiece.train(SENTENCES, 300)
    data = PackedTexts(*pack_pairs(DOCUMENTS, tokenizer, 9, np.random.default_rng(0)))
    model = BertForPreTraining(BertModel(BertConfig(300, 12, 3, 10, 2, 9)))
    train.draw_attention(model, data, tokenizer, tmp_path / "attention.png")
    assert (tmp_path / "attention.png").read_bytes().startswith(b"\x89PNG")


@pytest.fixture
def start(tmp_path):
    """The folder of a pre-training, as train.py leaves it, with weights that are not fresh."""
    folder = tmp_path / "start"
    folder.mkdir()
    tokenizer = WordPiece.train(SENTENCES, 300)
    (folder / "vocab.txt").write_text("\n".join(tokenizer.tokens))
    config = BertConfig(300, 12, 3, 10, 2, 20, dropout=0.2, attention_dropout=0.1)
    (folder / "bert.json").write_text(json.dumps(vars(config)))
    model = BertForPreTraining(BertModel(config))
    perturb(model)
    save_weights(folder / "model.safetensors", model)
    return folder, model, tokenizer


@pytest.mark.parametrize("fresh", [False, True])
def test_fine_tuning_is_the_plain_loop(tmp_path, few_texts, start, fresh, monkeypatch):
    asked, padded, (folder, pretrained, tokenizer) = [], 0, start
    monkeypatch.setattr(finetune, "load_arrays", lambda *a: asked.append(a) or few_texts)
    # Sizes and dropout come from the run that it begins with, but not the length of a text.
    words = "--device cpu --batch-size 5 --width 8 --heads 2 --dropout 0.5 --longest 12 --seed 3"
    words += f" --lr 0.01 --warmup 0.5 --clip-norm 0.5 --limit 23 --epochs 2 --data-dir {tmp_path}"
    words += f" --pretrained {folder} --out {tmp_path / 'out'}" + " --fresh" * fresh
    finetune.main(words.split())
    assert asked == [("reviews", tmp_path)]
    (folder,) = (tmp_path / "out").glob("*/*")

    torch.manual_seed(3)
    if fresh:
        bert = BertModel(pretrained.bert.config)  # drawn once for the weights that are read
        bert = BertModel(pretrained.bert.config)
    else:
        bert = pretrained.bert
    torch.manual_seed(3)
    model = BertForSequenceClassification(bert)
    order = np.random.default_rng(0).permutation(30)
    rows = [tokenizer.pack(tokenizer.encode(few_texts.x_train[i])[-10:]) for i in order]
    data = PackedTexts(rows, few_texts.y_train[order])
    optimizer, wanted, schedule = paper_optimizer(model), [], linear_decay(10, 5)
    for step in range(10):  # 2 epochs of 5 batches
        epoch, i = divmod(step, 5)
        rng = np.random.default_rng([3, 0, epoch])
        index = by_length(rng.permutation(23), data.lengths, 5, rng)[i]
        tokens, segments, labels = data.arrays(index)
        padded += (tokens == 0).any()
        seed_step(3, step)
        logits = model(*map(torch.from_numpy, (tokens, segments, tokens != 0)))
        loss = F.cross_entropy(logits, torch.from_numpy(labels))
        for group in optimizer.param_groups:
            group["lr"] = 0.01 * schedule(step)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 0.5)
        optimizer.step()
        wanted.append((loss.item(), 0.01 * schedule(step)))
    got = [(r["loss"], r["lr"]) for r in read_metrics(folder) if "loss" in r]
    np.testing.assert_allclose(got, wanted, rtol=1e-4)
    assert padded
    trained = load_weights(folder / "model.safetensors")
    for name, p in model.named_parameters():
        np.testing.assert_allclose(trained[name], p.detach().numpy(), rtol=0, atol=1e-5)
    model.eval()
    right = [
        model(torch.tensor([tokenizer.pack(tokenizer.encode(t)[-10:])[0]])).argmax().item() == y
        for t, y in zip(few_texts.x_test, few_texts.y_test, strict=True)
    ]
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["model"] == ("bert-fresh" if fresh else "bert-pretrained")
    assert summary["metrics"]["test_accuracy"] == np.mean(right)


def test_a_text_is_no_longer_than_the_encoder_can_read(tmp_path, few_texts, start, monkeypatch):
    lengths, encode = [], finetune.encode
    monkeypatch.setattr(finetune, "encode", lambda *a: lengths.append(a[3]) or encode(*a))
    words = f"--device cpu --pretrained {start[0]} --longest 50 --epochs 1 --out {tmp_path / 'out'}"
    finetune.main(words.split())
    assert lengths == [20, 20]


def test_fine_tuning_from_scratch_learns_a_word(tmp_path, monkeypatch):
    parts = [("name", "list", "set"), "xyz", ("string", "number", "tuple", "dict")]
    texts = [f"the {a} of {b} returns a {c} ." for a, b, c in itertools.product(*parts)]
    x, y = np.array(texts, dtype=object), np.array(["list" in text for text in texts]).astype(int)
    data = Arrays(x[:30], y[:30], x[20:], y[20:], CLASSES)
    started, load_start = [], finetune.load_start
    monkeypatch.setattr(finetune, "load_arrays", lambda *_: data)
    monkeypatch.setattr(finetune, "load_start", lambda *a: started.append(a[1]) or load_start(*a))
    words = f"{SMALL} --longest 20 --epochs 25 --lr 0.01 --dropout 0 --out {tmp_path}"
    finetune.main(words.split())
    assert len(started) == 1 and started[0] is data.x_train  # a vocabulary of these texts alone
    (summary,) = tmp_path.glob("*/*/summary.json")
    summary = json.loads(summary.read_text())
    assert summary["metrics"]["test_accuracy"] == 1 and summary["model"] == "bert-scratch"


def test_the_sizes_of_a_start_from_scratch():
    words = "--vocabulary 300 --width 12 --heads 3 --hidden 10 --layers 1 --longest 9 --dropout 0.3"
    options = parse_options(finetune.Options, words.split())
    bert, tokenizer = finetune.load_start(options, SENTENCES)
    assert tokenizer.tokens == WordPiece.train(SENTENCES, 300).tokens
    assert bert.config == BertConfig(300, 12, 3, 10, 1, 9, dropout=0.3, attention_dropout=0.3)


def test_fine_tuning_begins_with_a_published_model(tmp_path):
    tokens = [*WordPiece.SPECIAL, *["the", "list", "of", "x"]]
    config = transformers.BertConfig(
        vocab_size=len(tokens),
        hidden_size=12,
        num_hidden_layers=1,
        num_attention_heads=3,
        intermediate_size=10,
        max_position_embeddings=9,
    )
    theirs = transformers.BertModel(config)
    theirs.save_pretrained(tmp_path)
    options = finetune.Options(pretrained=str(tmp_path))
    with pytest.raises(ValueError, match="expected a vocabulary in"):
        finetune.load_start(options, [])
    numbers = {token: i for i, token in enumerate(tokens)}
    transformers.BertTokenizer(vocab=numbers).save_pretrained(tmp_path)
    bert, tokenizer = finetune.load_start(options, [])
    assert list(tokenizer.tokens) == tokens and bert.config.longest == 9
    want = theirs.eval()(torch.tensor([[2, 5, 3]])).pooler_output
    assert torch.allclose(bert(torch.tensor([[2, 5, 3]]))[1], want, atol=1e-5)
    fresh, _ = finetune.load_start(finetune.Options(pretrained=str(tmp_path), fresh=True), [])
    name = "embeddings.word_embeddings.weight"
    assert not torch.equal(fresh.state_dict()[name], bert.state_dict()[name])


@pytest.mark.parametrize("kind", ["BertTokenizer", "PreTrainedTokenizerFast"])
def test_a_published_vocabulary_keeps_its_numbers(tmp_path, kind):
    """A token that stands twice leaves a number unused; the next ones must not move up."""
    tokens = [*WordPiece.SPECIAL, "the", "list", "the", "of", "##s", "The"]
    config = transformers.BertConfig(
        vocab_size=len(tokens),
        hidden_size=12,
        num_hidden_layers=1,
        num_attention_heads=3,
        intermediate_size=10,
    )
    transformers.BertModel(config).save_pretrained(tmp_path)
    (tmp_path / "vocab.txt").write_text("\n".join(tokens), encoding="utf-8")
    settings = {"tokenizer_class": "BertTokenizer", "do_lower_case": False}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    theirs.save_pretrained(tmp_path)
    # The general class, which many checkpoints name, does not say whether it lower-cases.
    settings = {"tokenizer_class": kind, "unk_token": "[UNK]", "do_lower_case": False}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    _, tokenizer = finetune.load_start(finetune.Options(pretrained=str(tmp_path)), [])
    want = theirs("The lists of the list")["input_ids"]
    assert tokenizer.pack(tokenizer.encode("The lists of the list"))[0] == want
    assert want == [2, 10, 6, 9, 8, 7, 6, 3] and len(tokenizer) == len(tokens)


def test_a_long_review_keeps_its_end():
    tokenizer = WordPiece([*WordPiece.SPECIAL, *"abcdef"])
    data = finetune.encode(["a b c d e f", "a<br />b"], np.array([0, 1]), tokenizer, 5)
    assert data.tokens.tolist() == [[2, 8, 9, 10, 3], [2, 5, 6, 3, 0]]


def test_accuracy_does_not_depend_on_padding_or_order():
    tokenizer = WordPiece.train(SENTENCES, 300)
    texts = SENTENCES[:144]
    labels = np.arange(144) % 2
    data = finetune.encode(texts, labels, tokenizer, 20)
    assert (data.tokens == 0).any()
    torch.manual_seed(0)
    model = BertForSequenceClassification(BertModel(BertConfig(len(tokenizer), 12, 3, 10, 1, 20)))
    model.eval()
    right = [
        model(torch.tensor([tokenizer.pack(tokenizer.encode(t)[-18:])[0]])).argmax().item() == y
        for t, y in zip(texts, labels, strict=True)
    ]
    assert finetune.accuracy(model, data, 0, torch.device("cpu")) == np.mean(right)


def test_a_review_is_padded_with_the_tokenizers_token():
    tokens = ["x", "y", *WordPiece.SPECIAL]
    data = finetune.encode(["x y x", "y"], np.array([0, 1]), WordPiece(tokens), 9)
    assert WordPiece(tokens).pad_id == data.tokens[1, -1] == 2


def test_a_model_that_is_not_there_is_an_error_of_one_line(tmp_path):
    with pytest.raises(SystemExit, match="error: --pretrained: "):
        finetune.main(["--pretrained", str(tmp_path / "nothing"), "--out", str(tmp_path)])


def test_fresh_without_a_model_is_an_error_of_one_line(capsys):
    with pytest.raises(SystemExit):
        finetune.main(["--fresh"])
    assert "--fresh: expected --pretrained beside it" in capsys.readouterr().err


def test_the_recipes():
    o, f = train.Options(), finetune.Options()  # the README's measured figures are of these
    assert (o.epochs, o.batch_size, o.lr, o.warmup, o.clip_norm) == (40, 16, 1e-3, 0.1, 1.0)
    assert (f.epochs, f.batch_size, f.lr, f.warmup, f.clip_norm) == (30, 32, 3e-4, 0.1, 1.0)
    assert (o.vocabulary, f.vocabulary) == (1000, 2000)
    for options in (o, f):
        assert options.longest == 64
        sizes = (options.width, options.heads, options.hidden, options.layers, options.dropout)
        assert sizes == (128, 4, 512, 2, 0.1)


@pytest.mark.parametrize("script", [train, finetune])
def test_an_impossible_network_is_an_error_of_one_line(capsys, script):
    with pytest.raises(SystemExit):
        script.main(["--width", "10", "--heads", "4"])
    assert "expected a width that 4 heads divide, got 10" in capsys.readouterr().err
