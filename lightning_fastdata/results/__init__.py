"""What a run measured, as data, without torch. The records that users meet are imported from here."""

from lightning_fastdata.results.records import Span as Span
from lightning_fastdata.results.records import StageWait as StageWait
from lightning_fastdata.results.records import StepRecord as StepRecord
from lightning_fastdata.results.run_file import read_run as read_run
from lightning_fastdata.results.stats import ACCOUNTS as ACCOUNTS
from lightning_fastdata.results.stats import Boundary as Boundary
from lightning_fastdata.results.stats import DeviceTimes as DeviceTimes
from lightning_fastdata.results.stats import Loading as Loading
from lightning_fastdata.results.stats import RankTimes as RankTimes
from lightning_fastdata.results.stats import SlowSample as SlowSample
from lightning_fastdata.results.stats import SpeedupBound as SpeedupBound
from lightning_fastdata.results.stats import WaitKinds as WaitKinds
from lightning_fastdata.results.summary import RunSummary as RunSummary
from lightning_fastdata.results.tuning import Consumer as Consumer
from lightning_fastdata.results.tuning import Probe as Probe
from lightning_fastdata.results.tuning import Trial as Trial
from lightning_fastdata.results.tuning import TuneResult as TuneResult
from lightning_fastdata.results.verdict import Verdict as Verdict
