//! Says in one sentence why no window could be opened, with what to install.

/// Why the window could not be opened, or ended.
#[derive(Debug, thiserror::Error)]
pub enum AppError {
    /// There is no display to open it on.
    #[error("open the window: no display; set DISPLAY or WAYLAND_DISPLAY, or use the command line (trimtab --help)")]
    NoDisplay,
    /// A library of the window system is missing.
    #[error(
        "open the window: {0}; on Debian or Ubuntu: apt install libx11-6 libxcursor1 libxi6 libx11-xcb1 libxkbcommon-x11-0"
    )]
    NoWindowSystem(String),
    /// No graphics adapter can draw, not even a software one.
    #[error("open the window: no graphics driver; on Debian or Ubuntu: apt install libvulkan1 mesa-vulkan-drivers")]
    NoAdapter,
    /// Anything else.
    #[error("open the window: {0}")]
    Other(String),
}

impl From<eframe::Error> for AppError {
    fn from(error: eframe::Error) -> Self {
        let text = error.to_string();
        match error {
            eframe::Error::WinitEventLoop(_) | eframe::Error::Winit(_) => from_window_system(text),
            eframe::Error::Wgpu(_) => Self::NoAdapter,
            eframe::Error::AppCreation(_) => Self::Other(text),
        }
    }
}

/// winit's errors are known by their text only.
fn from_window_system(text: String) -> AppError {
    let is_about_display = ["DISPLAY is set", "WAYLAND_DISPLAY", "XOpenDisplay"].iter().any(|part| text.contains(part));
    if is_about_display { AppError::NoDisplay } else { AppError::NoWindowSystem(text) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_say_what_to_install() {
        let none = "winit EventLoopError: os error: neither WAYLAND_DISPLAY nor WAYLAND_SOCKET nor DISPLAY is set";
        assert!(matches!(from_window_system(none.to_owned()), AppError::NoDisplay));
        let library = from_window_system("Library libXi.so could not be loaded".to_owned()).to_string();
        assert!(library.contains("libXi.so") && library.contains("apt install") && library.contains("libxi6"));
        assert!(AppError::NoAdapter.to_string().contains("mesa-vulkan-drivers"));
    }
}
