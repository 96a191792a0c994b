"""All systems; importing this package registers them in Detectron2's META_ARCH_REGISTRY."""

from twostage.systems.one_stage.catseg import model as _catseg  # noqa: F401
from twostage.systems.one_stage.sed import model as _sed  # noqa: F401
from twostage.systems.one_stage.segclip import model as _segclip  # noqa: F401
from twostage.systems.training_free import model as _training_free  # noqa: F401
from twostage.systems.training_free.maskclip_plus import model as _maskclip_plus  # noqa: F401
from twostage.systems.two_stage.fcclip import model as _fcclip  # noqa: F401
from twostage.systems.two_stage.mask2former import model as _mask2former  # noqa: F401
from twostage.systems.two_stage.ovseg import model as _ovseg  # noqa: F401
from twostage.systems.two_stage.san import model as _san  # noqa: F401
from twostage.systems.two_stage.scan import model as _scan  # noqa: F401
