"""The methods of `operator.sock`, one module a noun."""

from .conversation import OperatorConversation as OperatorConversation
