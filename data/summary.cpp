#include "data/summary.h"

#include <fmt/core.h>

#include <algorithm>
#include <bit>
#include <limits>

#include "core/base/numeric.h"

namespace thimble {
namespace {

/// The smallest length that at least `percent` of the sorted lengths do not exceed.
std::int64_t percentile(const std::vector<std::uint32_t>& sorted, std::int64_t percent) {
  const std::int64_t rank = ceil_div(narrow<std::int64_t>(sorted.size()) * percent, 100);
  return sorted[narrow<std::size_t>(std::max<std::int64_t>(rank, 1) - 1)];
}

}  // namespace

double text_bytes_per_token(const std::vector<const TokenFile*>& files) {
  double bytes = 0;
  double tokens = 0;
  for (const TokenFile* file : files) {
    bytes += static_cast<double>(file->header().text_bytes);
    tokens += static_cast<double>(file->num_tokens());
  }
  return tokens > 0 ? bytes / tokens : 0;
}

void SummaryBuilder::add(const TokenFile& file, ExcessLength excess, bool train_on_inputs) {
  constexpr std::int64_t kLongest = std::numeric_limits<std::uint32_t>::max();
  std::int64_t over = 0;
  for (std::int64_t i = 0; i < file.num_documents(); ++i) {
    const std::int64_t tokens = file.document_tokens(i);
    lengths_.push_back(static_cast<std::uint32_t>(std::min(tokens, kLongest)));
    summary_.longest = std::max(summary_.longest, tokens);
    over += tokens > seq_len_ ? 1 : 0;
    const bool cut = tokens > seq_len_ && excess == ExcessLength::kTruncate;
    const std::int64_t trained = file.trained_tokens(i, cut ? seq_len_ : tokens, train_on_inputs);
    summary_.without_trained_tokens += trained == 0 ? 1 : 0;
  }
  files_.push_back(&file);
  summary_.samples += file.num_documents();
  summary_.tokens += file.num_tokens();
  summary_.special += file.header().num_special;
  summary_.bad_lines += file.header().num_bad_lines;
  summary_.empty += file.header().num_empty;
  summary_.duplicates += file.header().num_duplicates;
  if (excess == ExcessLength::kDrop) summary_.dropped += over;
  if (excess == ExcessLength::kTruncate) summary_.truncated += over;
  if (excess == ExcessLength::kSplit) summary_.split += over;
}

DataSummary SummaryBuilder::finish() {
  std::sort(lengths_.begin(), lengths_.end());
  if (!lengths_.empty()) {
    summary_.p50 = percentile(lengths_, 50);
    summary_.p90 = percentile(lengths_, 90);
    summary_.p99 = percentile(lengths_, 99);
  }
  for (const std::uint32_t length : lengths_) {
    if (length == 0) continue;
    const auto power = static_cast<std::size_t>(std::bit_width(length) - 1);
    if (summary_.lengths.size() <= power) summary_.lengths.resize(power + 1);
    ++summary_.lengths[power];
  }
  summary_.bytes_per_token = text_bytes_per_token(files_);
  return summary_;
}

std::string summary_text(const DataSummary& s) {
  std::string text =
      fmt::format("{} samples, {} tokens (lengths: median {}, 90 % {}, 99 % {}, longest {})",
                  s.samples, s.tokens, s.p50, s.p90, s.p99, s.longest);
  const auto count = [&text](std::int64_t n, const char* what) {
    if (n > 0) text += fmt::format(", {} {}", n, what);
  };
  count(s.special, "special tokens in the text");
  count(s.bad_lines, "bad lines skipped");
  count(s.empty, "empty");
  count(s.duplicates, "duplicates");
  count(s.without_trained_tokens, "without a trained token");
  count(s.dropped, "dropped");
  count(s.truncated, "truncated");
  count(s.split, "split");
  return text +
         fmt::format(
             "; {} training sequences, {:.1f} % full, {} trained tokens, {:.2f} bytes per token",
             s.train_sequences, 100 * s.packing_efficiency, s.trained_tokens, s.bytes_per_token);
}

}  // namespace thimble
