// Writes pickles of protocol 2, value by value in the order in which a reader makes them. Knows no
// type beyond Python's own; whoever writes tensors says how they are made.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>

namespace thimble {

class PickleWriter {
 public:
  PickleWriter() : out_("\x80\x02") {}

  void none() { out_ += 'N'; }
  void boolean(bool value) { out_ += value ? '\x88' : '\x89'; }
  void integer(std::int64_t value);
  void number(double value);
  void text(std::string_view value);
  void global(std::string_view module, std::string_view name);

  /// A list or tuple of what comes between the two calls.
  void begin_list() { out_ += "]("; }
  void end_list() { out_ += 'e'; }
  void begin_tuple() { out_ += '('; }
  void end_tuple() { out_ += 't'; }
  void integers(std::span<const std::int64_t> values);
  /// A dict of the keys and values between the two calls.
  void begin_dict() { out_ += "}("; }
  void end_dict() { out_ += 'u'; }

  /// Calls what lies below with the tuple above it.
  void call() { out_ += 'R'; }
  /// Makes an object of the class below and the tuple above it, without its constructor.
  void make() { out_ += '\x81'; }
  /// Gives the object below the state above it.
  void build() { out_ += 'b'; }
  /// Replaces the value above by what it is the id of.
  void persistent() { out_ += 'Q'; }
  /// Fills the dict-like object below with the keys and values since begin_items().
  void begin_items() { out_ += '('; }
  void end_items() { out_ += 'u'; }

  /// The whole pickle. Nothing may be added after it.
  std::string finish() { return std::move(out_ += '.'); }

 private:
  std::string out_;
};

}  // namespace thimble
