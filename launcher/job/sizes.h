// Values of job keys that are more than a number: byte sizes with a unit, and "auto" or a value.
// They only hold what the job says; who resolves an "auto" writes the result back into the same
// value.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace thimble::job {

/// A number of bytes, written "20GiB" (2^30) or "5GB" (10^9) in a job.
struct ByteSize {
  std::int64_t bytes = 0;
  bool operator==(const ByteSize&) const = default;
};

/// "auto" (empty) or a value.
template <typename T>
struct Auto {
  std::optional<T> value;
  bool is_auto() const { return !value.has_value(); }
  bool operator==(const Auto&) const = default;
};

using AutoInt = Auto<std::int64_t>;
using AutoBytes = Auto<ByteSize>;

/// Reads "5GB", "20 GiB", "1.5GiB", "4096B"; nothing if the text is no size, is negative or above
/// 2^63 - 1.
std::optional<ByteSize> parse_size(std::string_view text);

/// The shortest exact spelling that parse_size reads back: "5GB", "20GiB", "1000001B".
std::string format_size(ByteSize size);

}  // namespace thimble::job
