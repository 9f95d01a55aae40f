// Values as JSON text, in the manner of Python's json.dumps.
#include <fmt/format.h>

#include <algorithm>

#include "data/template/operations.h"

namespace thimble::jinja {
namespace {

void append_escaped_unit(unsigned unit, std::string& out) {
  out += fmt::format("\\u{:04x}", unit);
}

/// The character of `text` at byte `i`, which moves behind it.
unsigned next_character(const std::string& text, std::size_t& i) {
  const auto byte = [&](std::size_t k) {
    return k < text.size() ? static_cast<unsigned char>(text[k]) : 0u;
  };
  const unsigned first = byte(i);
  const unsigned count = first < 0x80 ? 1 : first < 0xE0 ? 2 : first < 0xF0 ? 3 : 4;
  unsigned code = count == 1 ? first : first & (0xFFu >> (count + 1));
  for (unsigned k = 1; k < count; ++k) code = code << 6 | (byte(i + k) & 0x3Fu);
  i += count;
  return code;
}

class JsonWriter {
 public:
  JsonWriter(const JsonStyle& style, Budget& budget) : style_(style), budget_(budget) {
    items_ = style.item_separator.empty() ? (style.indent < 0 ? ", " : ",") : style.item_separator;
    keys_ = style.key_separator.empty() ? ": " : style.key_separator;
  }

  void write(const Value& value, int depth) {
    budget_.step();
    if (value.as_text()) return write_text(*value.as_text());
    if (value.is_none()) return append("null");
    if (const bool* b = value.get<bool>()) return append(*b ? "true" : "false");
    if (const auto* i = value.get<std::int64_t>()) return append(std::to_string(*i));
    if (const auto* d = value.get<double>()) return append(float_text(*d));
    if (value.as_list()) return write_list(*value.as_list(), depth);
    if (value.as_dict()) return write_dict(*value.as_dict(), depth);
    fail(fmt::format("tojson of {}", kind_name(value)));
  }

  std::string take() { return std::move(out_); }

 private:
  void append(std::string_view text) {
    budget_.make(text.size());
    out_ += text;
  }

  void line(int depth) {
    if (style_.indent < 0) return;
    append("\n" +
           std::string(static_cast<std::size_t>(style_.indent) * static_cast<std::size_t>(depth),
                       ' '));
  }

  void write_list(const List& list, int depth) {
    if (list.empty()) return append("[]");
    out_ += '[';
    for (std::size_t i = 0; i < list.size(); ++i) {
      if (i > 0) append(items_);
      line(depth + 1);
      write(list[i], depth + 1);
    }
    line(depth);
    out_ += ']';
  }

  void write_dict(const Dict& dict, int depth) {
    if (dict.items.empty()) return append("{}");
    std::vector<const std::pair<std::string, Value>*> order;
    for (const auto& item : dict.items) order.push_back(&item);
    if (style_.sort_keys) {
      std::stable_sort(order.begin(), order.end(),
                       [](auto* a, auto* b) { return a->first < b->first; });
    }
    out_ += '{';
    for (std::size_t i = 0; i < order.size(); ++i) {
      if (i > 0) append(items_);
      line(depth + 1);
      write_text(order[i]->first);
      append(keys_);
      write(order[i]->second, depth + 1);
    }
    line(depth);
    out_ += '}';
  }

  void write_text(const std::string& text) {
    budget_.make(text.size());
    out_ += '"';
    for (std::size_t i = 0; i < text.size();) {
      const char c = text[i];
      static constexpr std::string_view kFrom = "\"\\\n\r\t\b\f", kTo = "\"\\nrtbf";
      if (const std::size_t at = kFrom.find(c); at != kFrom.npos) {
        out_ += {'\\', kTo[at]};
        ++i;
      } else if (static_cast<unsigned char>(c) < 0x20) {
        append_escaped_unit(static_cast<unsigned char>(c), out_);
        ++i;
      } else if (style_.ascii && static_cast<unsigned char>(c) >= 0x80) {
        const unsigned code = next_character(text, i);
        if (code >= 0x10000) append_escaped_unit(0xD800 + ((code - 0x10000) >> 10), out_);
        append_escaped_unit(code >= 0x10000 ? 0xDC00 + ((code - 0x10000) & 0x3FFu) : code, out_);
      } else {
        out_ += c;
        ++i;
      }
    }
    out_ += '"';
  }

  const JsonStyle& style_;
  Budget& budget_;
  std::string items_, keys_, out_;
};

}  // namespace

std::string to_json(const Value& value, const JsonStyle& style, Budget& budget) {
  JsonWriter writer(style, budget);
  writer.write(value, 0);
  return writer.take();
}

}  // namespace thimble::jinja
