#include "data/sequence_source.h"

#include <algorithm>
#include <numeric>

#include "core/base/error.h"
#include "core/base/numeric.h"

namespace thimble {
namespace {

constexpr std::int64_t kMarkEvery = 64;

/// Part of a document as it stands in a sequence.
struct Segment {
  std::int64_t document = 0;
  std::int64_t length = 0;  // tokens of the document that are used
  std::int64_t begin = 0;   // first token, counted in the document
  std::int64_t count = 0;   // tokens in this sequence
  bool trains_all = true;   // not only what the file says is trained
};

/// Writes `segment` at position `at` of the sequence.
void fill_segment(SequenceView sequence, std::int64_t at, const Segment& segment,
                  const TokenFile& file) {
  const auto first = static_cast<std::size_t>(at);
  const auto count = static_cast<std::size_t>(segment.count);
  const std::int64_t file_begin = file.document_begin(segment.document) + segment.begin;
  file.copy_tokens(file_begin, sequence.tokens.subspan(first, count));
  const bool has_next = segment.begin + segment.count < segment.length;
  std::int32_t next = 0;
  if (has_next) file.copy_tokens(file_begin + segment.count, {&next, 1});
  for (std::size_t j = 0; j < count; ++j) {
    const std::size_t t = first + j;
    sequence.targets[t] = 0;
    sequence.weights[t] = 0.0f;
    sequence.segment_start[t] = static_cast<std::int32_t>(at);
    sequence.positions[t] = static_cast<std::int32_t>(j);
  }
  const std::int64_t last_target = std::min(segment.length, segment.begin + segment.count + 1);
  file.for_each_trained(segment.document, segment.trains_all, [&](TokenRange range) {
    // The target of a position is the token behind it.
    for (std::int64_t k = std::max(range.begin, segment.begin + 1);
         k < std::min(range.end, last_target); ++k) {
      const auto j = static_cast<std::size_t>(k - segment.begin - 1);
      sequence.targets[first + j] = j + 1 == count ? next : sequence.tokens[first + j + 1];
      sequence.weights[first + j] = 1.0f;
    }
  });
}

std::int64_t overlap(std::int64_t begin, std::int64_t end, std::int64_t from, std::int64_t to) {
  return std::max<std::int64_t>(0, std::min(end, to) - std::max(begin, from));
}

}  // namespace

void fill_padding(SequenceView sequence, std::int64_t begin) {
  for (auto t = static_cast<std::size_t>(begin); t < sequence.tokens.size(); ++t) {
    sequence.tokens[t] = 0;
    sequence.targets[t] = 0;
    sequence.weights[t] = 0.0f;
    sequence.segment_start[t] = static_cast<std::int32_t>(begin);
    sequence.positions[t] = static_cast<std::int32_t>(static_cast<std::int64_t>(t) - begin);
  }
}

TextSequences::TextSequences(const DocumentSelection& selection, std::vector<SequenceRange> ranges)
    : selection_(selection), ranges_(std::move(ranges)) {
  for (std::int64_t i = 0; i < selection.file().num_documents(); ++i) {
    if (i % kMarkEvery == 0) marks_.push_back(num_tokens_);
    num_tokens_ += selection.length(i);
  }
  if (ranges_.empty()) ranges_.push_back({0, num_stream_sequences()});
  range_begin_.push_back(0);
  for (const auto& [begin, end] : ranges_)
    range_begin_.push_back(range_begin_.back() + end - begin);
}

std::int64_t TextSequences::num_stream_sequences() const {
  return ceil_div(num_tokens_, selection_.seq_len());
}

TextSequences::Place TextSequences::locate(std::int64_t position) const {
  const auto mark = std::upper_bound(marks_.begin(), marks_.end(), position) - 1;
  Place place{(mark - marks_.begin()) * kMarkEvery, *mark};
  while (place.begin + selection_.length(place.document) <= position) {
    place.begin += selection_.length(place.document++);
  }
  return place;
}

void TextSequences::fill_sequence(std::int64_t sequence, SequenceView out) const {
  TH_CHECK(sequence >= 0 && sequence < num_sequences(), "sequence outside the data");
  selection_.file().check_unchanged();
  const auto range = static_cast<std::size_t>(
      std::upper_bound(range_begin_.begin(), range_begin_.end(), sequence) - range_begin_.begin() -
      1);
  const std::int64_t stream_sequence = ranges_[range].first + sequence - range_begin_[range];
  const std::int64_t begin = stream_sequence * selection_.seq_len();
  const std::int64_t end = std::min(begin + selection_.seq_len(), num_tokens_);

  Place place = locate(begin);
  std::int64_t at = begin;
  while (at < end) {
    const std::int64_t length = selection_.length(place.document);
    const std::int64_t count = std::min(place.begin + length, end) - at;
    if (count > 0) {
      fill_segment(out, at - begin, {place.document, length, at - place.begin, count, true},
                   selection_.file());
      at += count;
    }
    place.begin += length;
    ++place.document;
  }
  fill_padding(out, end - begin);
  if (stream_sequence + 1 == ranges_[range].second && end < num_tokens_) {
    out.targets.back() = 0;
    out.weights.back() = 0.0f;
  }
}

SequenceCounts TextSequences::counts() const {
  SequenceCounts counts;
  const std::int64_t seq_len = selection_.seq_len();
  for (const auto& [first, last] : ranges_) {
    const std::int64_t from = first * seq_len;
    const std::int64_t to = std::min(last * seq_len, num_tokens_);
    counts.tokens += to - from;
    const std::int64_t trained_to =
        to < num_tokens_ ? to - 1 : to;  // the target at a cut is dropped
    std::int64_t begin = 0;
    for (std::int64_t i = 0; i < selection_.file().num_documents(); ++i) {
      const std::int64_t length = selection_.length(i);
      if (length > 0) counts.trained += overlap(begin, begin + length - 1, from, trained_to);
      begin += length;
    }
  }
  return counts;
}

SampleSequences::SampleSequences(const DocumentSelection& selection, bool packing,
                                 bool train_on_inputs)
    : selection_(selection), train_on_inputs_(train_on_inputs) {
  const std::int64_t documents = selection.file().num_documents();
  const std::int64_t seq_len = selection.seq_len();
  std::vector<std::uint32_t> lengths;
  for (std::int64_t i = 0; i < documents; ++i) {
    const std::int64_t length = selection.length(i);
    for (std::int64_t begin = 0; begin < length; begin += seq_len) {
      pieces_.push_back({narrow<std::uint32_t>(i), narrow<std::uint32_t>(begin / seq_len)});
      if (packing) lengths.push_back(narrow<std::uint32_t>(std::min(seq_len, length - begin)));
    }
  }
  plan_ = packing ? pack_best_fit(lengths, seq_len)
                  : one_per_sequence(narrow<std::int64_t>(pieces_.size()));
}

void SampleSequences::fill_sequence(std::int64_t sequence, SequenceView out) const {
  TH_CHECK(sequence >= 0 && sequence < num_sequences(), "sequence outside the data");
  selection_.file().check_unchanged();
  const auto r = static_cast<std::size_t>(sequence);
  std::int64_t at = 0;
  for (std::int64_t m = plan_.sequence_begin[r]; m < plan_.sequence_begin[r + 1]; ++m) {
    const Piece piece = pieces_[plan_.members[static_cast<std::size_t>(m)]];
    const std::int64_t length = selection_.length(piece.document);
    const std::int64_t begin = piece.index * selection_.seq_len();
    const std::int64_t count = std::min(selection_.seq_len(), length - begin);
    fill_segment(out, at, {piece.document, length, begin, count, train_on_inputs_},
                 selection_.file());
    at += count;
  }
  fill_padding(out, at);
}

SequenceCounts SampleSequences::counts() const {
  SequenceCounts counts;
  for (std::int64_t i = 0; i < selection_.file().num_documents(); ++i) {
    const std::int64_t length = selection_.length(i);
    counts.tokens += length;
    counts.trained += selection_.file().trained_tokens(i, length, train_on_inputs_);
  }
  return counts;
}

}  // namespace thimble
