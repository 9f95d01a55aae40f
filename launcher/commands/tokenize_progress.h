// How far tokenising is, for the person at the terminal; shared by the commands that tokenise.
#pragma once

#include "data/data_spec.h"

namespace thimble {

struct CommandSession;

/// Shows bytes, tokens and time left: a live line on a terminal, a plain line every ten seconds
/// elsewhere, nothing with --quiet. The session must outlive the function; the caller ends the live
/// line.
ProgressFn tokenize_progress(const CommandSession& session);

}  // namespace thimble
