// JSON, one object a line. A line is flushed at once, so that a hang loses no finished result.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <string>

namespace rnnfused {
namespace probe {

class Row {
 public:
  Row& put(const char* name, const std::string& value) { return raw(name, quoted(value)); }
  Row& put(const char* name, const char* value) { return raw(name, quoted(value)); }
  Row& put(const char* name, bool value) { return raw(name, value ? "true" : "false"); }
  Row& put(const char* name, int value) { return raw(name, std::to_string(value)); }
  Row& put(const char* name, int64_t value) { return raw(name, std::to_string(value)); }
  Row& put(const char* name, double value) {
    if (!std::isfinite(value)) return raw(name, "null");  // JSON has no NaN
    char text[32];
    std::snprintf(text, sizeof text, "%.6g", value);
    return raw(name, text);
  }

  void print() const {
    std::printf("{%s}\n", fields_.c_str());
    std::fflush(stdout);
  }

 private:
  static std::string quoted(const std::string& text) {
    std::string result = "\"";
    for (const char c : text) {
      if (c == '"' || c == '\\') result += '\\';
      result += static_cast<unsigned char>(c) < 0x20 ? ' ' : c;
    }
    return result + '"';
  }

  Row& raw(const char* name, const std::string& value) {
    fields_ += (fields_.empty() ? "\"" : ", \"") + std::string(name) + "\": " + value;
    return *this;
  }

  std::string fields_;
};

}  // namespace probe
}  // namespace rnnfused
