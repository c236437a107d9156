"""How parameters are stored: one file for each form, and what they have in common."""

from lessen.surgery.forms.base import Form, Holder
from lessen.surgery.forms.places import Owners, store
from lessen.surgery.forms.registering import form_of, forms_of, stored

__all__ = ["Form", "Holder", "Owners", "form_of", "forms_of", "store", "stored"]
