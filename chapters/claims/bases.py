"""The bases that most claims start from: families story and long, tuning seeds and test seeds.

Each seed has its own. Other families (C4's mirror) are made when a claim needs them.
"""

from ledger.command import main
from ledger.models import bases
from ledger.records import TUNING

if __name__ == "__main__":
    main(bases("story", "long"), seeds=[*TUNING, *range(10)])
