// What ranks and the keeper say to each other.
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "keeper/snapshot_saver.h"

namespace thimble {

/// Raised with every change of the messages or of the memory's layout: a keeper of another build
/// is not talked to.
inline constexpr int kKeeperVersion = 1;

inline constexpr std::string_view kAskHello = "hello";           // version, rank
inline constexpr std::string_view kAskLook = "look";             // what is kept, with descriptors
inline constexpr std::string_view kAskKeep = "keep";             // rank, start; with a descriptor
inline constexpr std::string_view kAskDropOlder = "drop_older";  // memory of earlier starts
inline constexpr std::string_view kAskForget = "forget";         // all memory
inline constexpr std::string_view kAskSave = "save";             // step, start
inline constexpr std::string_view kAskFinish = "finish";         // the run is over

/// The message that a save has ended.
std::string text_of(const SaveOutcome& outcome);
/// None: the text is another message.
std::optional<SaveOutcome> outcome_of(const std::string& text);

}  // namespace thimble
