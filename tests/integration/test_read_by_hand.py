"""Somebody beside the Trainer reads the loader it trains with, a callback for instance: the run is as if he had not."""

import pytest
from lightning.pytorch import Callback
from resume_cases import Noisy, RaiseAt, StopError, data, every_step, fit, loader_states, rest

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*ckpt_path"),
    pytest.mark.filterwarnings("ignore:Total length of .list. across ranks is zero"),
    pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty"),
    pytest.mark.filterwarnings("ignore:This DataLoader will create"),
]

HOOKS = ("on_train_start", "on_train_epoch_start", "on_train_batch_end", "on_validation_end", "on_train_epoch_end")


class Reads(Callback):
    """Takes one batch, or all of them, as a callback for statistics or example images does."""

    def __init__(self, hook, *, all_of_it=False):
        self.all_of_it, self.read = all_of_it, []
        setattr(self, hook, self.look)

    def look(self, trainer, *args):
        batches = iter(trainer.train_dataloader)
        self.read.append(list(batches) if self.all_of_it else [next(batches)])


@pytest.fixture(scope="module")
def alone():
    """Two epochs that nobody else reads."""
    return fit(data(), val_check_interval=3)


@pytest.mark.parametrize("all_of_it", [False, True])
@pytest.mark.parametrize("hook", HOOKS)
def test_every_cut_with_a_reader_in_a_hook(hook, all_of_it, alone, tmp_path):
    """Neither the run itself nor any resumed one notices."""
    reader = Reads(hook, all_of_it=all_of_it)
    full = fit(data(), callbacks=[reader, every_step(tmp_path)], val_check_interval=3)
    assert rest(full, 0) == rest(alone, 0)
    assert reader.read
    for step in range(1, 13):
        reader = Reads(hook, all_of_it=all_of_it)
        resumed = fit(data(), path=tmp_path / f"step={step}.ckpt", callbacks=[reader], val_check_interval=3)
        assert rest(resumed, 0) == rest(alone, step), step


@pytest.mark.parametrize("epochs", [2, 4])
def test_a_reader_at_the_end_of_an_epoch_makes_none_longer(epochs):
    """Lightning's counters are its own in a run that was not resumed."""
    run = fit(data(), callbacks=[Reads("on_train_epoch_end")], max_epochs=epochs)
    assert run.trainer.global_step == 6 * epochs


@pytest.mark.slow
def test_a_reader_beside_workers_that_live_on(alone):
    """The Trainer's workers are in the middle of their own pass; the reader gets others."""
    module = data(workers=1, persistent_workers=True)
    run = fit(module, callbacks=[Reads("on_train_batch_end")], val_check_interval=3)
    assert rest(run, 0) == rest(alone, 0)


def test_a_validation_loader_read_while_training_gives_the_same_each_time():
    """Its random numbers are those of epoch 0, whenever it is read."""

    class ReadsValidation(Reads):
        def look(self, trainer, *args):
            self.read.append([batch.tolist() for batch in trainer.val_dataloaders])

    reader = ReadsValidation("on_train_batch_end")
    fit(data(), callbacks=[reader])
    assert len(reader.read) == 12
    assert all(read == reader.read[0] for read in reader.read)


def test_a_checkpoint_written_after_a_failed_run_counts_what_was_trained(tmp_path):
    """Lightning has taken its loops apart by then."""
    run = fit(data(), callbacks=[RaiseAt("on_train_batch_start", 0, 3)], catches=StopError)
    assert run.error is not None
    run.trainer.save_checkpoint(tmp_path / "late.ckpt")
    assert [state["batches_consumed"] for state in loader_states(tmp_path / "late.ckpt")] == [3]


def test_a_dataset_that_grows_is_read_to_its_end():
    """As with torch: the next epoch has all of it."""

    class Growing(Callback):
        def on_train_epoch_end(self, trainer, model):
            dataset.length += 4

    dataset = Noisy(8)
    module = data(train=dataset, val=None)
    run = fit(module, callbacks=[Growing()], max_epochs=3, reload_dataloaders_every_n_epochs=1)
    assert [epoch for epoch, _, _ in run.seen] == [0, 0, 1, 1, 1, 2, 2, 2, 2]
    loader = data(train=(dataset := Noisy(8))).train_dataloader()
    assert len(list(loader)) == 2
    dataset.length = 12
    assert {int(number) for batch in loader for number in batch[:, 0]} == set(range(12))
