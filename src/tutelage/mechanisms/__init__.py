"""What a stage may do in addition to its objective. Importing the package makes these kinds known to recipes."""

from tutelage.mechanisms.coding import settings as coding
from tutelage.mechanisms.gates import settings as gates
from tutelage.mechanisms.own_teacher import settings as own_teacher
from tutelage.mechanisms.pruning import settings as pruning
from tutelage.mechanisms.ptp import settings as ptp
from tutelage.mechanisms.quantization import settings as quantization
from tutelage.mechanisms.reduction import settings as reduction
from tutelage.mechanisms.subnetworks import settings as subnetworks
from tutelage.mechanisms.team import settings as team

__all__ = ["coding", "gates", "own_teacher", "pruning", "ptp", "quantization", "reduction", "subnetworks", "team"]
