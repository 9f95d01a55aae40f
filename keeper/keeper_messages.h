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

/// Seconds within which a keeper answers: it may first have to end a save, or rebuild a node's
/// part.
inline constexpr double kKeeperLimitS = 300;

inline constexpr std::string_view kAskHello = "hello";           // version, rank
inline constexpr std::string_view kAskLook = "look";             // what is kept, with descriptors
inline constexpr std::string_view kAskKeep = "keep";             // rank, start; with a descriptor
inline constexpr std::string_view kAskDropOlder = "drop_older";  // memory of earlier starts
inline constexpr std::string_view kAskForget = "forget";         // all memory
inline constexpr std::string_view kAskSave = "save";             // step, start
inline constexpr std::string_view kAskSaving = "saving";         // what step
inline constexpr std::string_view kAskFinish = "finish";         // the run is over

inline constexpr std::string_view kAskWorld = "world";      // of this start: see world_text()
inline constexpr std::string_view kAskMeet = "meet";        // secret: others may ask from now on
inline constexpr std::string_view kAskRebuild = "rebuild";  // a lost node's part of a moment

// Between keepers, after {"peer": secret, "version"}; payloads are bytes.
inline constexpr std::string_view kAskParts = "parts";      // step, start
inline constexpr std::string_view kAskData = "data";        // and rank, offset, bytes
inline constexpr std::string_view kAskShard = "shard";      // and offset, bytes
inline constexpr std::string_view kAskParity = "parity";    // and stripe
inline constexpr std::string_view kSayBlock = "block";      // and node, stripe; with the block
inline constexpr std::string_view kSayDone = "done";        // and node: it has sent all its blocks
inline constexpr std::string_view kSayEncoded = "encoded";  // and node: its parity counts

/// The message that a save has ended.
std::string text_of(const SaveOutcome& outcome);
/// None: the text is another message.
std::optional<SaveOutcome> outcome_of(const std::string& text);

}  // namespace thimble
