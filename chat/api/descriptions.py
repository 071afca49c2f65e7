"""What is said of the chat API beside its shapes: what its longer operations refuse, and examples."""

from typing import Any

from billing.errors import (
    AllowanceUsedUp,
    ComparisonNotInPlan,
    NotInPlan,
    SpendLimitReached,
    TooManyAtOnce,
)
from chat.errors import (
    AccessEnded,
    BadEffort,
    BadText,
    ContextExceeded,
    EmailUnconfirmed,
    FileNotReady,
    FileNotUsable,
    ModelNotInKey,
    NoModel,
    NoPdfText,
    NoVision,
    QueueFull,
    TextTooLong,
    TooManyFiles,
    TooManyStreams,
    UnknownModel,
)
from chat.shown.files import CONTENT_TYPES, OTHER_TYPE
from core.errors import Conflict
from core.operations import Refusal
from history.errors import (
    HasNoBranches,
    IdOfOtherKind,
    NothingToShare,
    ParentNotFinished,
    ShareTakenDown,
    ShareTooLarge,
    TooManyShares,
    TooMuchTemporary,
)

ASK_REFUSES: tuple[Refusal, ...] = (
    *(BadText, TextTooLong, ContextExceeded, UnknownModel, BadEffort, NoModel),
    *(AllowanceUsedUp, SpendLimitReached, QueueFull, TooManyAtOnce, TooManyStreams),
    *(NotInPlan, ComparisonNotInPlan, EmailUnconfirmed, ModelNotInKey, AccessEnded),
    *(NoVision, NoPdfText, TooManyFiles, FileNotUsable, FileNotReady),
    *(Conflict, ParentNotFinished, HasNoBranches, IdOfOtherKind, TooMuchTemporary),
)
FILE_REFUSES: tuple[Refusal, ...] = (
    *((400, "file_missing"), (413, "file_too_large"), (429, "too_many_pending")),
    *((415, "file_type"), (415, "file_empty"), (415, "file_svg"), (415, "file_lies")),
)
SHARE_REFUSES: tuple[Refusal, ...] = (NothingToShare, ShareTakenDown, ShareTooLarge, TooManyShares)

FILE_TYPES = sorted({content_type.partition(";")[0] for content_type in (*CONTENT_TYPES.values(), OTHER_TYPE)})

RATE_LIMITS = {
    "RateLimit-Limit": "Questions an hour, where your plan limits them.",
    "RateLimit-Remaining": "How many of them are left.",
    "RateLimit-Reset": "Seconds until all of them are.",
}

TURN_ID, CONVERSATION_ID = "0193c2a4-1111-7b7e-9a52-6f1d0c9b7a11", "0193c2a4-2222-7b7e-9a52-6f1d0c9b7a22"

MODELS = {
    "results": [
        {
            "id": "demo",
            "label": "Demo",
            "remark": "A toy that runs on this machine: short answers in English, and poor Spanish.",
            "provider": "demo",
            "tier": "demo",
            "context_window": 8192,
            "max_output": 1024,
            "input_price": 0,
            "output_price": 0,
            "sees_images": False,
            "reads_pdfs": False,
            "reasons": False,
            "efforts": [],
            "included": True,
        }
    ],
    "next": None,
}
ASK = {"text": "Say hello.", "model": "demo", "stream": False}
ANSWERED: dict[str, Any] = {
    "id": TURN_ID,
    "conversation_id": CONVERSATION_ID,
    "parent_id": None,
    "beside_id": None,
    "seq": 1,
    "model": "demo",
    "effort": "",
    "provider": "demo",
    "instead_of": "",
    "route": "",
    "status": "completed",
    "question": "Say hello.",
    "attachments": [],
    "answer": "Hello!",
    "reasoning": "",
    "from_cache": False,
    "usage": {"input": 21, "cache_read": 0, "cache_write": 0, "output": 3, "reasoning": 0, "source": "provider"},
    "cost_micros": 0,
    "cost_detail": "",
    "price": None,
    "first_token_ms": 180,
    "reasoning_ms": 0,
    "finish_reason": "stop",
    "error": None,
    "trimmed_turns": 0,
    "created_at": "2026-11-30T12:00:00Z",
    "completed_at": "2026-11-30T12:00:01Z",
}
STREAM = (
    f'event: turn.started\ndata: {{"type":"turn.started","turn_id":"{TURN_ID}","model":"demo",…}}\n\n'
    f'id: 1-6-0\nevent: turn.delta\ndata: {{"type":"turn.delta","turn_id":"{TURN_ID}","gen":1,"at":0,"text":"Hello!"}}'
    f'\n\nid: over\nevent: turn.completed\ndata: {{"type":"turn.completed","turn_id":"{TURN_ID}","turn":{{…}},…}}\n\n'
)
