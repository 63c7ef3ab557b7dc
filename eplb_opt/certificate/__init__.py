"""Evidence for lower bounds and optima that anyone can check, in exact arithmetic and no solver."""

from eplb_opt.certificate.document import Verdict, verify_document
from eplb_opt.certificate.moves import nothing_moves_less
from eplb_opt.certificate.proof import CertificateError, Trust, check_bound

__all__ = [
    "CertificateError",
    "Trust",
    "Verdict",
    "check_bound",
    "nothing_moves_less",
    "verify_document",
]
