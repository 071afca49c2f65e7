"""What every page of the admin says of payments."""

from django import template

from billing.gateways import mode_of_payments

register = template.Library()

register.simple_tag(mode_of_payments)
